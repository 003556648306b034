//! Whom does the stats socket serve when many want something, and what does Prometheus get?

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::listen::Server;
use super::metrics;
use super::pools::PoolRows;
use super::tests::Fake;

impl Fake {
    /// What Prometheus would see.
    pub(crate) fn metrics(&self) -> String {
        let pools = Arc::new(PoolRows::new(Arc::clone(&self.shared)));
        metrics::render(&self.shared, &pools).unwrap()
    }
}

#[test]
fn a_thousand_silent_clients_keep_nobody_out() {
    let fake = Fake::new(1);
    fake.run(async || {
        let mut silent = Vec::new();
        for number in 0..1_000 {
            let mut stream = UnixStream::connect(&fake.socket).await.unwrap();
            if number % 2 == 0 {
                // Half a request; whoever was let go may hear of it already.
                let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost:").await;
            }
            silent.push(stream);
        }
        let answer = tokio::time::timeout(Duration::from_secs(5), fake.json("/v1/status"));
        assert_eq!(answer.await.expect("an answer")["workers"], 2);
    });
}

/// Pods reach the address of the metrics. Whoever asks once on each connection, and keeps it, or asks and never reads,
/// must not keep out the one who asks whether natgate lives: natgate would be started again for it.
#[test]
fn bug_clients_that_had_asked_kept_signs_of_life_from_everybody_else() {
    let fake = Fake::new(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let any = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(&fake.socket, Some(any)).await.unwrap();
        let address = server.metrics_address().unwrap();
        let test = async {
            let mut held = Vec::new();
            for number in 0..100 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let path = if number % 2 == 0 { "/healthz" } else { "/metrics" };
                let request = format!("GET {path} HTTP/1.1\r\nhost: n\r\n\r\n").repeat(20);
                // Whoever was let go may hear of it already.
                let _ = stream.write_all(request.as_bytes()).await;
                held.push(stream);
            }
            let asks = async {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: n\r\n\r\n").await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                answer
            };
            let answer = tokio::time::timeout(Duration::from_secs(5), asks).await;
            let answer = answer.expect("an answer, and the end of the connection");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        };
        tokio::select! {
            () = server.serve(Arc::clone(&fake.shared)) => unreachable!(),
            () = test => {}
        }
    });
}
