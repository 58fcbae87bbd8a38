//! Values in Avro (specification 1.12): a [`schema`] is read from its JSON, [`resolve`] makes of a writer's schema and the table's what to
//! do with each field, and [`read`] does it with the bytes of a value.

pub mod read;
pub mod resolve;
pub mod schema;

pub use read::Bad;
pub use resolve::Plan;
pub use schema::Schema;
