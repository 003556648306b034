//! The wrong configurations and what natgate says about them.
//!
//! In every text `$D` stands for the directory of the case.

mod behavior;
mod command_line;
mod events;
mod files;
mod fixed;
mod objects;
mod pools;
mod rules;

use crate::Case;

/// Two interfaces, one pool, one rule: nothing is wrong with it.
pub(super) const GOOD: &str = "\
apiVersion: natgate.dev/v1alpha1
kind: Gateway
metadata:
  name: gateway
spec:
  interfaces:
    internal: [in0]
    external: [out0]
---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata:
  name: shop
spec:
  addresses: [203.0.113.10-203.0.113.13]
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata:
  name: pods
spec:
  from: [10.244.0.0/16]
  pool: shop
";

/// Every case, by topic.
pub(super) fn all() -> impl Iterator<Item = &'static Case> {
    let objects =
        [objects::CASES, pools::CASES, behavior::CASES, rules::CASES, fixed::CASES, events::CASES];
    objects.into_iter().chain([files::CASES, command_line::CASES]).flatten()
}
