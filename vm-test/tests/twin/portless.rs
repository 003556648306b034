//! Protocols of which only the addresses can be translated.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use vm_test::client::pattern;
use vm_test::craft::Ip;
use vm_test::inject::{INSIDE, OUTSIDE};

use super::Bench;
use super::cases::{CROWD, name};

pub(super) fn esp(bench: &Bench) -> Result<String> {
    let body = pattern(6, 100);
    bench.lab.inside.send(&Ip::new(INSIDE, OUTSIDE, 50).packet(&body))?;
    let came = bench.lab.came_outside()?;
    let Some(got) = came.first() else { return Ok("nothing outside".to_owned()) };
    let public = got.ip().source();
    bench.lab.outside.send(&Ip::new(OUTSIDE, public, 50).packet(&body))?;
    let back = bench.lab.one_inside("ESP")?;
    let right = got.ip().body == body && public.octets()[0] == 203 && back.ip().body == body;
    Ok(if right { "address translated, body as sent" } else { "changed" }.to_owned())
}

/// Answers to two pods under one address could not be told apart: what do those hear who get none?
pub(super) fn esp_crowd(bench: &Bench) -> Result<String> {
    let mut addresses = BTreeSet::new();
    let mut heard = String::new();
    for pod in [21].into_iter().chain(CROWD) {
        let pod = Ipv4Addr::new(10, 244, 1, pod);
        bench.lab.inside.send(&Ip::new(pod, OUTSIDE, 50).packet(&pattern(7, 100)))?;
        let outside = bench.lab.came_outside()?;
        let inside = bench.lab.came_inside()?;
        match outside.first() {
            Some(packet) => {
                let new = addresses.insert(packet.ip().source());
                ensure!(new, "two pods under {}", packet.ip().source());
            }
            None => heard = name(&inside, "inside"),
        }
    }
    ensure!(!addresses.is_empty(), "no ESP came outside");
    Ok(format!("one pod under each address; others: {heard}"))
}

pub(super) fn dccp(bench: &Bench) -> Result<String> {
    bench.lab.inside.send(&Ip::new(INSIDE, OUTSIDE, 33).packet(&[0; 32]))?;
    let outside = name(&bench.lab.came_outside()?, "outside");
    Ok(format!("{outside}; {}", name(&bench.lab.came_inside()?, "inside")))
}
