//! A power cut for a real kumod: it is killed under load, and what it hadn't synced is taken away; see
//! [`support::power`] for what that is and isn't.
mod support;

#[path = "power/shim.rs"]
mod shim;
