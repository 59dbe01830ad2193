//! kumod over a folder that goes bad: read-only, full, slow, or with damaged files. What was accepted has to arrive, or to
//! be named as damaged; nothing is bounced for the disk's sake; clients hear 421 while the spool is ill and 220 soon after.
//! Needs root for mounts. What is measured is printed: `--nocapture` shows it.
mod support;

#[path = "ill/at_the_start.rs"]
mod at_the_start;
#[path = "ill/clients.rs"]
mod clients;
#[path = "ill/compact.rs"]
mod compact;
#[path = "ill/corrupt.rs"]
mod corrupt;
#[path = "ill/full.rs"]
mod full;
#[path = "ill/guards.rs"]
mod guards;
#[path = "ill/immutable.rs"]
mod immutable;
#[path = "ill/mail.rs"]
mod mail;
#[path = "ill/outside.rs"]
mod outside;
#[path = "ill/places.rs"]
mod places;
#[path = "ill/stalls.rs"]
mod stalls;
#[path = "ill/times.rs"]
mod times;

use support::ask;
