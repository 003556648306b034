mod api;
mod mirror;
mod view;

fn main() {}
