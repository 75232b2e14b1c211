//! The data path of NBD connections: a thread per connection that answers plain reads and writes itself and hands
//! everything else over to JavaScript.

pub mod binding;
mod connection;
mod inbox;
mod orders;
mod outbox;
mod socket;
mod wire;
