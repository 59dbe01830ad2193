//! That the harness sees loss: the same cut right after the answers costs mail where the spool isn't flushed, and none
//! where it is.
use super::support::lives::{DRAIN, QUIET};
use super::support::power::{Disk, Keep};
use super::support::{Client, Home, Kumod, Sink};
use std::collections::BTreeSet;

const MESSAGES: usize = 20;

/// Subjects of the messages that were answered 250, and of those that arrive after a cut. `folders`: made beforehand.
fn accepted_and_delivered(flush: bool, folders: &[&str]) -> (BTreeSet<String>, BTreeSet<String>) {
    let (home, sink) = (Home::new(), Sink::start(()));
    let mut disk = Disk::new(&home, folders);
    // Nobody is there to deliver to before the cut.
    let kumod = Kumod::launch_in(&policy(&home, flush, "[127.0.0.1]:1"), &disk.environment());
    let kumod = kumod.ready();
    let mut client = Client::greet(kumod.address()).unwrap();
    let accepted: BTreeSet<String> = (0..MESSAGES).map(|n| send(&mut client, n)).collect();
    kumod.kill();
    let lost = disk.cut(Keep::Nothing);
    println!("flush = {flush}: {} octets of the log are gone", lost.octets_of(".log"));

    let kumod = Kumod::start(&policy(&home, flush, &sink.as_mx()));
    // Shows that it delivers.
    let mut client = Client::greet(kumod.address()).unwrap();
    let last = send(&mut client, MESSAGES);
    sink.rest(QUIET, DRAIN);
    kumod.stop();
    let mut delivered: BTreeSet<String> =
        sink.sunk().iter().map(|sunk| sunk.header("Subject").unwrap()).collect();
    assert!(delivered.remove(&last), "{delivered:?}");
    (accepted, delivered)
}

fn policy(home: &Home, flush: bool, mx: &str) -> std::path::PathBuf {
    let handlers = format!(
        "kumo.on('get_queue_config', function()
           return kumo.make_queue_config {{
             protocol = {{ smtp = {{ mx_list = {{ '{mx}' }} }} }},
             retry_interval = '1s', max_retry_interval = '1s',
           }}
         end)
         kumo.on('get_egress_path_config', function()
           return kumo.make_egress_path {{ prohibited_hosts = {{}} }}
         end)"
    );
    let options = format!("flush = {flush}");
    home.policy_with_options("disk/spool", "disk/spool", &options, "", &handlers)
}

/// Its subject.
fn send(client: &mut Client, number: usize) -> String {
    let content = format!("Subject: {number}\r\n\r\nshort\r\n");
    let reply = client.send("ann@client.example", &["bob@sink.example"], &content).unwrap();
    assert_eq!(reply.code, 250, "{reply:?}");
    number.to_string()
}

#[test]
fn a_cut_costs_no_mail_that_was_answered() {
    let (accepted, delivered) = accepted_and_delivered(true, &["spool"]);
    assert_eq!(delivered, accepted);
}

#[test]
fn a_cut_costs_no_mail_in_a_folder_that_kumod_made() {
    let (accepted, delivered) = accepted_and_delivered(true, &[]);
    assert_eq!(delivered, accepted);
}

#[test]
fn without_flush_a_cut_costs_mail_and_this_harness_sees_it() {
    let (accepted, delivered) = accepted_and_delivered(false, &["spool"]);
    assert!(delivered.len() < accepted.len(), "nothing was lost of {accepted:?}");
    assert!(delivered.is_subset(&accepted), "{delivered:?}");
}
