//! How does one look into a running natgate? By HTTP over a Unix socket, and by metrics over TCP.

mod drain;
mod events;
#[cfg(test)]
mod guests_tests;
#[cfg(test)]
mod links_tests;
mod listen;
mod load;
mod metrics;
pub(crate) mod model;
mod openapi;
mod orders;
mod pools;
#[cfg(test)]
mod refusals_tests;
mod routes;
mod settings;
mod shared;
pub(crate) mod steering;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod who;

pub(crate) use drain::refusal;
#[cfg(test)]
pub(crate) use listen::ServeError;
pub(crate) use listen::Server;
pub(crate) use load::Loads;
pub(crate) use orders::{Order, Orders, Tune, orders};
pub(crate) use shared::{InterfaceFacts, Shared, WorkerFacts, pool_name};
