//! Whatever is asked wrongly of the socket is told with thing, place, reason and remedy.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::model::Problem;
use super::tests::Fake;
use crate::usage::tests::in_form;

#[test]
fn refusals_name_place_reason_and_remedy() {
    let fake = Fake::new(1);
    fake.run(async || {
        for (path, status) in [
            ("/v1/sessions?limit=x", 400),
            ("/v1/sessions?address=x", 400),
            ("/v1/sessions?pool=x", 400),
            ("/v1/sessions?protocol=x", 400),
            ("/v1/sessions?state=x", 400),
            ("/v1/sessions?colour=x", 400),
            ("/v1/subscribers?limit=x", 400),
            ("/v1/subscribers?colour=x", 400),
            ("/v1/events?since=x", 400),
            ("/v1/events?since=9", 400),
            ("/v1/events?last=x", 400),
            ("/v1/events?follow=x", 400),
            ("/v1/events?colour=x", 400),
            ("/v1/who", 400),
            ("/v1/who?endpoint=x", 400),
            ("/v1/who?endpoint=203.0.113.7:99999", 400),
            ("/v1/who?endpoint=203.0.113:1", 400),
            ("/v1/who?endpoint=203.0.113.7:1/sctp", 400),
            ("/v1/who?endpoint=203.0.113.7:1&at=x", 400),
            ("/v1/who?endpoint=203.0.113.7:1&at=9999-01-01T00:00:00Z", 400),
            ("/v1/who?endpoint=203.0.113.7:1&at=-1h", 409),
            ("/v1/explain", 400),
            ("/v1/explain?from=10.0.0.1", 400),
            ("/v1/explain?from=x&to=192.0.2.1:1", 400),
            ("/v1/explain?from=10.0.0.1&to=192.0.2.1:65536", 400),
            ("/v1/explain?from=10.0.0.1&to=192.0.2.1:1&vni=x", 400),
            ("/v1/explain?from=10.0.0.1&to=192.0.2.1:1&vni=7", 400),
            ("/v1/capture?drops=x", 400),
            ("/v1/capture?from=x", 400),
            ("/v1/capture?count=0", 400),
            ("/v1/capture?colour=x", 400),
            ("/v1/nothing", 404),
            ("/v1/reload", 405),
        ] {
            let (got, body) = fake.get(path).await;
            assert_eq!(got, status, "{path}: {body}");
            let Problem { error } = serde_json::from_str(&body).unwrap();
            assert!(in_form(&error), "{path}: {error}");
        }
        for (method, path, body, status) in [
            ("POST", "/v1/reload", "", 503),
            ("POST", "/v1/drain", "", 503),
            ("DELETE", "/v1/settings", "", 503),
            ("PATCH", "/v1/settings", "log", 400),
            ("PATCH", "/v1/settings", "{\"log\": []}", 400),
            ("POST", "/v1/status", "", 405),
        ] {
            let (got, body) = fake.ask(method, path, body).await;
            assert_eq!(got, status, "{method} {path}: {body}");
            let Problem { error } = serde_json::from_str(&body).unwrap();
            assert!(in_form(&error), "{method} {path}: {error}");
        }
    });
}

#[test]
fn a_second_capture_is_told_whose_the_first_is() {
    let fake = Fake::new(1);
    fake.run(async || {
        let ask = async || {
            let mut stream = UnixStream::connect(&fake.socket).await.unwrap();
            let request = b"GET /v1/capture HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            stream.read_exact(&mut [0; 1]).await.unwrap();
            stream
        };
        // The workers of this gateway end a capture soon after it began, sometimes before the next one asks.
        for _ in 0..1_000 {
            let (_first, mut second) = (ask().await, ask().await);
            let mut answer = Vec::new();
            second.read_to_end(&mut answer).await.unwrap();
            let Some(problem) = answer.strip_prefix(b"TTP/1.1 503") else { continue };
            let problem = String::from_utf8_lossy(problem);
            let ours = format!("by user {}, process {}; end it", own_user(), std::process::id());
            assert!(problem.contains("under way already, begun 0."), "{problem}");
            assert!(problem.contains(&ours), "{problem}");
            return;
        }
        panic!("nobody was refused");
    });
}

fn own_user() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid()
}
