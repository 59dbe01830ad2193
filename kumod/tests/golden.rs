//! A spool of format 1, as an early kumod left it when it was killed, is still mail: this kumod delivers it. Each later format
//! adds its own folder and stays able to read all of them (I22). The journal of format 1 is read in core's own tests.
mod support;

use std::path::Path;
use support::{Home, Kumod, PATIENCE, Sink, Sunk, wait_for};

#[test]
fn mail_in_a_spool_of_format_1_is_delivered() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1/spool");
    let handlers = format!(
        "kumo.on('get_queue_config', function()
           return kumo.make_queue_config {{
             protocol = {{ smtp = {{ mx_list = {{ '{}' }} }} }}, max_age = '36500 days',
           }}
         end)
         kumo.on('get_egress_path_config', function()
           return kumo.make_egress_path {{ prohibited_hosts = {{}} }}
         end)",
        sink.as_mx()
    );
    let policy = home.policy("", &handlers);
    home.hand_over("spool", &golden);
    let kumod = Kumod::start(&policy);
    let sunk = wait_for("three deliveries", PATIENCE, || {
        let taken: Vec<Sunk> = sink.sunk().into_iter().filter(Sunk::is_taken).collect();
        (taken.len() == 3).then_some(taken)
    });
    for (recipients, text) in [
        (&["joe1@example.com"][..], "golden 1"),
        (&["joe2@example.com"], "golden 2"),
        (&["a@example.org", "b@example.org"], "golden 3"),
    ] {
        let found = sunk.iter().find(|sunk| sunk.recipients == recipients);
        let found = found.unwrap_or_else(|| panic!("nothing for {recipients:?}"));
        assert_eq!(found.sender, "me@here.example");
        assert!(found.content.trim_end().ends_with(text), "{}", found.content);
    }
    kumod.stop();
}
