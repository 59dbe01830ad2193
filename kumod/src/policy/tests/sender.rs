//! Senders for `custom_lua`: how they are made, what their answers mean, and how they end.
use super::*;
use crate::policy::places::GIVEN_UP;
use kumo_core::smtp::reply::Reply;
use kumo_driver::policy::{Held, Hold, Opening, SendAnswer, Sender, Sent};
use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(20);

/// Counts what comes too late.
#[derive(Default)]
struct Lates(AtomicU64);

impl Held for Lates {
    fn late(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn opening(is_batched: bool) -> (Opening, Arc<Lates>) {
    let lates = Arc::new(Lates::default());
    let opening = Opening {
        constructor: "make.x".into(),
        domain: "d.test".into(),
        tenant: Some("t".into()),
        campaign: None,
        is_batched,
        hold: Hold::new(lates.clone()),
    };
    (opening, lates)
}

/// A policy whose constructor has this body, on line 2.
async fn constructor(body: &str) -> LuaPolicy {
    load(&format!("kumo.on('make.x', function(domain, tenant, campaign)\n{body}\nend)")).await
}

async fn open(policy: &LuaPolicy, is_batched: bool) -> Result<impl Sender, String> {
    policy.open_sender(opening(is_batched).0).await
}

/// With a `send` whose body is on line 3.
fn with_send(body: &str) -> String {
    format!("return {{ send = function(self, msg)\n{body}\nend }}")
}

async fn send(body: &str) -> SendAnswer {
    let policy = constructor(&with_send(body)).await;
    let mut sender = open(&policy, false).await.unwrap();
    let answer = sender.send(vec![message("Subject: hi\r\n\r\nbody\r\n")]).await;
    sender.close().await;
    answer
}

#[tokio::test]
async fn what_send_does_is_a_disposition_a_rejection_or_an_error_with_its_line() {
    let rejected = |code, text: &str, closes| {
        let reply = Reply::new(code, text);
        Sent::Rejected { reply, closes }
    };
    let failed = |text: &str| Sent::Failed(format!("event make.x:send: policy.lua:3: {text}"));
    let silent = "this function returned nil; it has to return a text once what it was given is \
                  delivered, and to call kumo.reject where it isn't";
    for (body, sent) in [
        ("return 'done'", Sent::Taken("done".into())),
        ("return '2.0.0 two\\r\\nlines\\0'", Sent::Taken("2.0.0 two\nlines".into())),
        ("kumo.reject(451, '4.2.0 later')", rejected(451, "4.2.0 later", false)),
        ("kumo.reject(550, 'never')", rejected(550, "never", false)),
        ("kumo.reject(421, 'away')", rejected(421, "away", true)),
        ("kumo.disconnect(450, 'away')", rejected(450, "away", true)),
        ("kumo.disconnect(450, 'no', 'If421')", rejected(450, "no", false)),
        ("error('boom')", failed("boom")),
        ("local x = nil; return x.y", failed("attempt to index a nil value (local 'x')")),
        (
            "while true do end",
            failed("ran out of its 2000000 instructions; is there a loop without end?"),
        ),
        ("kumo.sleep(0.01) return 'slept'", Sent::Taken("slept".into())),
        ("return msg:nonsense()", failed("messages have no method \"nonsense\" in this version")),
    ] {
        let answer = send(body).await.sent;
        let answer = match answer {
            Sent::Failed(text) => Sent::Failed(short(&text)),
            other => other,
        };
        assert_eq!(answer, sent, "{body}");
    }
    for body in ["return", "return nil", "return 7", "return {}"] {
        let Sent::Failed(text) = send(body).await.sent else { panic!("{body} was taken") };
        let place = short(&text);
        assert!(place.starts_with("event make.x:send: policy.lua:2: this function returned"));
        assert!(body == "return 7" || body == "return {}" || place.ends_with(silent), "{place}");
    }
}

#[tokio::test]
async fn send_has_the_message_and_what_it_changes_comes_back() {
    let body = "assert(msg:get_data():find('body'), 'data')
    assert(msg:get_first_named_header_value('subject') == 'hi')
    assert(tostring(msg:sender()) == 'from@sender.test')
    assert(#msg:recipient_list() == 2 and msg:num_attempts() == 3)
    msg:set_meta('receipt', msg:id())
    return 'ok'";
    let SendAnswer { sent, changed } = send(body).await;
    assert_eq!(sent, Sent::Taken("ok".into()));
    assert_eq!(changed[0].meta["receipt"], changed[0].id.to_string());
    assert!(send("return 'ok'").await.changed.is_empty());
    let kept = "self.kept = self.kept or msg; return tostring(self.kept)";
    let policy = constructor(&with_send(kept)).await;
    let mut sender = open(&policy, false).await.unwrap();
    assert!(matches!(sender.send(vec![message("\r\n")]).await.sent, Sent::Taken(_)));
    let Sent::Failed(text) = sender.send(vec![message("\r\n")]).await.sent else {
        panic!("a message was used after its time")
    };
    assert!(text.contains("this message belongs to a handler that has returned"), "{text}");
}

#[tokio::test]
async fn a_batch_is_given_as_a_list() {
    let body = "local object = {}
    function object:send_batch(messages)
      for _, msg in ipairs(messages) do msg:set_meta('n', #messages) end
      return domain .. ' ' .. tenant .. ' ' .. tostring(campaign) .. ' ' .. #messages
    end
    return object";
    let policy = constructor(body).await;
    for is_batched in [true, false] {
        let mut sender = open(&policy, is_batched).await.unwrap();
        let SendAnswer { sent, changed } =
            sender.send(vec![message("\r\n"), message("\r\n")]).await;
        assert_eq!(sent, Sent::Taken("d.test t nil 2".into()), "also without a send");
        assert_eq!(changed.len(), 2);
        sender.close().await;
    }
}

#[tokio::test]
async fn a_sender_that_cannot_be_made_says_why() {
    let handler = "event make.x: policy.lua:1:";
    for (body, is_batched, why) in [
        ("return {}", false, format!("{handler} the sender that this handler returned has neither a method send nor send_batch")),
        ("return { send = 7 }", false, format!("{handler} the sender that this handler returned has neither a method send nor send_batch")),
        ("return { send = print }", true, format!("{handler} the sender that this handler returned has no method send_batch, which custom_lua's batch_size asks for")),
        ("return 'x'", false, format!("{handler} this handler returned the string \"x\"; it has to return a table")),
        ("", false, format!("{handler} this handler returned nil; it has to return a table")),
        ("error('boom')", false, "event make.x: policy.lua:2: boom".into()),
        ("kumo.reject(451, 'not now')", false, "event make.x: 451 not now".into()),
        ("while true do end", false, "event make.x: policy.lua:2: ran out of its 2000000 instructions; is there a loop without end?".into()),
        ("return setmetatable({}, {__index = function() while true do end end})", false, "event make.x: policy.lua:2: ran out of its 2000000 instructions; is there a loop without end?".into()),
    ] {
        let policy = constructor(body).await;
        let error = open(&policy, is_batched).await.err().expect("it can't be made");
        assert_eq!(short(&error), why, "{body}");
    }
    let error = open(&load("").await, false).await.err().expect("there is no handler");
    assert!(error.contains("there is no kumo.on('make.x', …)"), "{error}");
}

#[tokio::test]
async fn a_constructors_handler_is_no_typing_error() {
    let warnings = try_load("kumo.on('make.x', print)").await.unwrap().warnings;
    assert_eq!(warnings, Vec::<String>::new());
}

#[tokio::test]
async fn a_sender_is_closed_once_and_its_place_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("closed");
    let body = format!(
        "return {{ send = function() return 'x' end, close = function(self)
           local file = io.open('{}', 'a') file:write('closed') file:close()
         end }}",
        file.display()
    );
    let policy = constructor(&body).await;
    for times in 1..5 {
        let sender = timeout(LONG, open(&policy, false)).await.expect("two at a time").unwrap();
        sender.close().await;
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "closed".repeat(times));
    }
}

#[tokio::test]
async fn a_sender_that_is_given_up_while_it_sleeps_or_spins_ends_at_once() {
    let options = PolicyOptions { instructions: u64::MAX, senders: 1, ..OPTIONS };
    for body in ["kumo.sleep(3600)", "while true do end"] {
        let source = format!("kumo.on('make.x', function()\n{}\nend)", with_send(body));
        let policy = load_with(&source, options).await.unwrap().policy;
        let (opening, lates) = opening(false);
        let mut sender = policy.open_sender(opening).await.unwrap();
        assert!(timeout(SHORT, sender.send(vec![message("\r\n")])).await.is_err(), "{body}");
        drop(sender);
        let next = timeout(LONG, open(&policy, false)).await;
        assert!(next.is_ok(), "its place is free: {body}");
        assert_eq!(lates.0.load(Ordering::Relaxed), 0, "it had nothing to say");
    }
}

/// A policy whose senders wait inside of the operating system until somebody opens `pipe` for writing.
async fn blocking(pipe: &Path, senders: usize) -> LuaPolicy {
    let name = CString::new(pipe.to_str().unwrap()).unwrap();
    // SAFETY: `name` outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let body = with_send(&format!("io.open('{}'):read('a') return 'late'", pipe.display()));
    let source = format!("kumo.on('make.x', function()\n{body}\nend)");
    load_with(&source, PolicyOptions { senders, ..OPTIONS }).await.unwrap().policy
}

#[tokio::test]
async fn a_sender_that_blocks_its_thread_keeps_its_place_and_is_not_heard_when_it_wakes() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let policy = blocking(&pipe, 1).await;
    let (opening, lates) = opening(false);
    let mut sender = policy.open_sender(opening).await.unwrap();
    assert!(timeout(SHORT, sender.send(vec![message("\r\n")])).await.is_err());
    drop(sender);
    assert!(timeout(SHORT, open(&policy, false)).await.is_err(), "there is but one place");
    drop(std::fs::OpenOptions::new().write(true).open(&pipe).unwrap());
    let woken = async {
        while lates.0.load(Ordering::Relaxed) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, woken).await.expect("it says something in the end");
    assert!(timeout(LONG, open(&policy, false)).await.is_ok(), "its place is free");
    assert_eq!(Arc::strong_count(&lates), 1, "nothing of it is left");
}

#[tokio::test]
async fn a_destination_that_wedges_its_senders_leaves_places_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let policy = blocking(&pipe, GIVEN_UP + 1).await;
    for _ in 0..GIVEN_UP {
        let mut sender = open(&policy, false).await.unwrap();
        assert!(timeout(SHORT, sender.send(vec![message("\r\n")])).await.is_err());
    }
    let refused = timeout(LONG, open(&policy, false)).await.expect("nobody waits for this");
    let expected = "event make.x: 8 senders for d.test were given up and still run; there is another once one of them ends";
    assert_eq!(refused.err().as_deref(), Some(expected));
    let (elsewhere, _) = opening(false);
    let elsewhere = Opening { domain: "other.test".into(), ..elsewhere };
    let other = timeout(LONG, policy.open_sender(elsewhere)).await;
    assert!(other.expect("a place is free").is_ok());
    drop(std::fs::OpenOptions::new().write(true).open(&pipe).unwrap());
    let again = async {
        while open(&policy, false).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, again).await.expect("once they have ended");
}
