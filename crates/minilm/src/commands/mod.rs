//! One module a subcommand, and what they share.

pub mod attention;
pub mod bank;
pub mod demo;
pub mod embed;
mod lettering;
mod picture;
mod reference;
pub mod sequential;
mod terminal;
