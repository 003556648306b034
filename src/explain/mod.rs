//! What would become of a flow, and why? Asked by `natgate explain` and `/v1/explain`.

mod answer;
pub(crate) mod model;
mod question;
mod show;
mod unreachable;

pub(crate) use answer::{Facts, NoAnswer, explain};
pub(crate) use question::{Asked, Question};
pub(crate) use show::text;
