//! All levels in one run: one report, one table, plots, and what changed since another run.

pub mod compare;
pub mod end_to_end;
pub mod in_memory;
pub mod levels;
pub mod plot;
pub mod report;
pub mod row;
pub mod table;

pub use levels::{Level, Options};
pub use report::{LevelResult, Report};
pub use row::{Axis, Bound, Quantity, Ratio, Row};
