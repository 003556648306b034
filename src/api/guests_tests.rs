//! Whom does the stats socket serve when many want something, and what does Prometheus get?

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

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
