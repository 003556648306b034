//! The way to a collector.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::export::{Collector, Transport};

/// A collector that takes or acknowledges nothing for this long is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// A look whether the collector has hung up takes so long at most.
const GLANCE: Duration = Duration::from_millis(1);

/// An open way.
#[derive(Debug)]
pub(super) enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Link {
    pub(super) fn open(to: &Collector) -> io::Result<Self> {
        if to.transport == Transport::Udp {
            let address = to.address.to_socket_addrs()?.next();
            let address = address.ok_or_else(|| io::Error::other("no such host"))?;
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.connect(address)?;
            return Ok(Self::Udp(socket));
        }
        let mut last = io::Error::other("no such host");
        for address in to.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => return Self::over(stream, to),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn over(stream: TcpStream, to: &Collector) -> io::Result<Self> {
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // What was written longer ago than this has been acknowledged, or the connection fails.
        setsockopt(&stream, TcpUserTimeout, &(PATIENCE.as_millis() as u32))?;
        if to.transport == Transport::Tcp {
            return Ok(Self::Tcp(stream));
        }
        let host = to.server_name.clone().unwrap_or_else(|| to.host().to_owned());
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let config = client_config(to).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self::Tls(Box::new(stream)))
    }

    /// Sends one message.
    pub(super) fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(message).map(drop),
            Self::Tcp(stream) => stream.write_all(message),
            Self::Tls(stream) => stream.write_all(message).and_then(|()| stream.flush()),
        }
    }

    /// Fails if the collector has hung up.
    pub(super) fn glance(&mut self) -> io::Result<()> {
        let mut nothing = [0; 64];
        let read = match self {
            // What came back is an ICMP error, if anything; the next message tells.
            Self::Udp(_) => return Ok(()),
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(GLANCE))?;
                stream.read(&mut nothing)
            }
            Self::Tls(stream) => {
                stream.sock.set_read_timeout(Some(GLANCE))?;
                stream.read(&mut nothing)
            }
        };
        match read {
            Ok(0) => Err(io::Error::other("the collector has hung up")),
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Says good-bye.
    pub(super) fn close(&mut self) {
        match self {
            Self::Udp(_) => {}
            Self::Tcp(stream) => drop(stream.shutdown(Shutdown::Write)),
            Self::Tls(stream) => {
                stream.conn.send_close_notify();
                let _ = stream.flush();
                let _ = stream.sock.shutdown(Shutdown::Write);
            }
        }
    }
}

fn client_config(to: &Collector) -> Result<ClientConfig, String> {
    let unreadable = |path: &Path, why: &dyn std::fmt::Display| {
        format!("cannot read certificates from {}: {why}", path.display())
    };
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, String> {
        let all = CertificateDer::pem_file_iter(path).map_err(|e| unreadable(path, &e))?;
        all.collect::<Result<_, _>>().map_err(|e| unreadable(path, &e))
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(&to.ca)?);
    if added == 0 {
        return Err(unreadable(&to.ca, &"there is none in it"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    match &to.certificate {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable(key, &e))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())
        }
    }
}
