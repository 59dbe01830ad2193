//! Shaping files from where they are: the disk, an HTTP server, and DNS for what their domains' sites are. How they are laid
//! over each other, and what holds for a path, is [`kumo_core::shaping`]'s. Invariant: what is read is bounded, and every wait
//! has an end.
mod fetch;
pub mod load;
pub mod lookup;
#[cfg(test)]
mod tests;
pub mod text;
