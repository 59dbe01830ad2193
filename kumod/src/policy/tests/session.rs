//! Session events: what each is given, and what its handler's values mean.
use super::*;
use kumo_core::config::ListenerDomain;
use kumo_core::smtp::reply::Reply;
use kumo_core::smtp::server::{Disconnect, Handled};
use kumo_driver::policy::Generated;

fn mail_from(text: &str) -> Asked {
    Asked::MailFrom { sender: ReversePath::parse(text).unwrap() }
}

#[tokio::test]
async fn absent_handlers_proceed_and_touch_no_state() {
    let policy = load("").await;
    assert_eq!(policy.handled(), Handled::default());
    assert!(matches!(ask(&policy, Asked::ConnectionAccepted).await.verdict, Verdict::Proceed));
    let data = Asked::Data { message: message("A: b\r\n\r\n") };
    let answer = ask(&policy, data).await;
    assert_eq!(answer.meta["received_from"], "192.0.2.1:25");
    assert!(matches!(answer.verdict, Verdict::Message(kept) if kept == message("A: b\r\n\r\n")));
    let generated = policy.message_generated(message("")).await;
    assert!(matches!(generated, Generated::Proceed(_)));
    assert_eq!(policy.idle_states(), 0, "no state was made");
}

#[tokio::test]
async fn handled_says_what_is_registered() {
    let policy =
        load("kumo.on('smtp_server_ehlo', print) kumo.on('smtp_server_data', print)").await;
    assert_eq!(policy.handled(), Handled { ehlo: true, data: true, ..Handled::default() });
}

#[tokio::test]
async fn a_state_is_used_again() {
    let policy = load("kumo.on('smtp_server_mail_from', function() end)").await;
    for _ in 0..3 {
        assert!(matches!(ask(&policy, mail_from("")).await.verdict, Verdict::Proceed));
        assert_eq!(policy.idle_states(), 1);
    }
}

#[tokio::test]
async fn every_event_gets_its_arguments() {
    let check = |event: &str, signature: &str, condition: &str| {
        format!(
            "kumo.on('{event}', function({signature}) \
             assert(meta:get_meta 'received_from' == '192.0.2.1:25') \
             assert({condition}, 'wrong') meta:set_meta('seen', {{'{event}'}}) end)"
        )
    };
    let recipient = Mailbox::parse("to@rcpt.test").unwrap();
    let rows = [
        (check("smtp_server_connection_accepted", "meta", "true"), Asked::ConnectionAccepted),
        (
            check("smtp_server_ehlo", "domain, meta, ext", "domain == 'c.test' and ext[2] == 'B'"),
            Asked::Ehlo { domain: "c.test".into(), extensions: vec!["A".into(), "B".into()] },
        ),
        (
            check("smtp_server_auth_plain", "z, c, p, meta", "z == '1' and c == '2' and p == '3'"),
            Asked::AuthPlain { authz: "1".into(), authc: "2".into(), password: "3".into() },
        ),
        (
            check("smtp_server_mail_from", "from, meta", "from.domain == 's.test'"),
            mail_from("x@s.test"),
        ),
        (
            check("get_listener_domain", "domain, listener, meta", "listener == '0.0.0.0:25'"),
            Asked::ListenerDomain { domain: "d.test".into(), listener: "0.0.0.0:25".into() },
        ),
        (
            check("smtp_server_rcpt_to", "to, meta", "tostring(to) == 'to@rcpt.test'"),
            Asked::RcptTo { recipient },
        ),
        (
            check("smtp_server_data", "msg, meta", "#msg:recipient_list() == 2"),
            Asked::Data { message: message("") },
        ),
        (
            check("smtp_server_message_received", "msg, meta", "msg:get_data() == 'A: b\\r\\n'"),
            Asked::MessageReceived { message: message("A: b\r\n") },
        ),
    ];
    for (source, what) in rows {
        let answer = ask(&load(&source).await, what).await;
        assert!(!matches!(answer.verdict, Verdict::Failed(_)), "{:?}", answer.verdict);
        assert!(answer.meta["seen"].is_array(), "{source}");
    }
}

#[tokio::test]
async fn reject_and_disconnect_become_verdicts_and_keep_the_metadata() {
    let source = "kumo.on('smtp_server_mail_from', function(from, meta)
        meta:set_meta('x_seen', true)
        if from.user == 'reject' then kumo.reject(550, '5.7.1 no') end
        local ok, e = pcall(kumo.disconnect, 451, 'bye', 'FollowWith421')
        error(e)
    end)";
    let policy = load(source).await;
    let answer = ask(&policy, mail_from("reject@x.test")).await;
    assert_eq!(answer.meta["x_seen"], true);
    let no = Reply::new(550, "5.7.1 no");
    assert!(matches!(answer.verdict, Verdict::Reject(reply) if reply == no));
    let answer = ask(&policy, mail_from("other@x.test")).await;
    assert!(matches!(
        answer.verdict,
        Verdict::Disconnect { reply, how: Disconnect::FollowWith421 } if reply.code == 451
    ));
    assert_eq!(policy.idle_states(), 1, "a rejection doesn't spoil a state");
}

#[tokio::test]
async fn values_become_verdicts() {
    let ehlo = || Asked::Ehlo { domain: "c".into(), extensions: Vec::new() };
    let auth = || Asked::AuthPlain { authz: "".into(), authc: "".into(), password: "".into() };
    let domain = || Asked::ListenerDomain { domain: "d".into(), listener: "l".into() };
    let on =
        |event: &str, value: &str| format!("kumo.on('{event}', function() return {value} end)");
    let given = verdict(&on("smtp_server_ehlo", "{'X', 'Y'}"), ehlo()).await;
    assert!(matches!(given, Verdict::Extensions(list) if list == ["X", "Y"]));
    let given = verdict(&on("smtp_server_ehlo", "nil"), ehlo()).await;
    assert!(matches!(given, Verdict::Proceed));
    let given = verdict(&on("smtp_server_auth_plain", "true"), auth()).await;
    assert!(matches!(given, Verdict::Authenticated(true)));
    let given = verdict(&on("smtp_server_auth_plain", "nil"), auth()).await;
    assert!(matches!(given, Verdict::Authenticated(false)));
    let made = "kumo.make_listener_domain{relay_to = true}";
    let given = verdict(&on("get_listener_domain", made), domain()).await;
    let expected = ListenerDomain { relay_to: true, ..ListenerDomain::default() };
    assert!(matches!(given, Verdict::ListenerDomain(Some(domain)) if domain == expected));
    let given = verdict(&on("get_listener_domain", "nil"), domain()).await;
    assert!(matches!(given, Verdict::ListenerDomain(None)));
}

#[tokio::test]
async fn a_wrong_value_names_event_line_and_value() {
    let source = "\nkumo.on('smtp_server_auth_plain', function() return 'yes' end)";
    let auth = Asked::AuthPlain { authz: "".into(), authc: "".into(), password: "".into() };
    assert_eq!(
        failure(verdict(source, auth).await),
        "event smtp_server_auth_plain: policy.lua:2: this handler returned the string \"yes\"; \
         it has to return true or false"
    );
    let source = "kumo.on('get_listener_domain', function() return {relay_to = true} end)";
    let domain = Asked::ListenerDomain { domain: "d".into(), listener: "l".into() };
    assert_eq!(
        failure(verdict(source, domain).await),
        "event get_listener_domain: policy.lua:1: this handler returned a table; it has to return \
         what kumo.make_listener_domain makes, or nil"
    );
    let source = "kumo.on('smtp_server_ehlo', function() return {1, print} end)";
    let ehlo = Asked::Ehlo { domain: "c".into(), extensions: Vec::new() };
    assert!(failure(verdict(source, ehlo).await).ends_with("a list of strings, or nil"));
}

#[tokio::test]
async fn errors_name_event_and_line_and_show_tables() {
    for (body, expected) in [
        ("local x = nil\nx.y = 1", "policy.lua:3: attempt to index a nil value (local 'x')"),
        ("error('oops')", "policy.lua:2: oops"),
        ("error('oops', 0)", "policy.lua:2: oops"),
        ("error({code = 5, why = {'a'}})", r#"policy.lua:2: {"code":5,"why":["a"]}"#),
        ("assert(false, {a = 1})", r#"policy.lua:2: {"a":1}"#),
        ("assert(nil, 'not there')", "policy.lua:2: not there"),
        (
            "pcall(print)\nfrom.usr()",
            "policy.lua:3: an address has no field \"usr\" (did you mean `user`?)",
        ),
        (
            "meta:set_meta('tenant', 5)",
            "policy.lua:2: set_meta: tenant is a string, not the number 5",
        ),
        (
            "meta:set_meta('x', {y = print})",
            "policy.lua:2: y: a function can't be stored or encoded",
        ),
        ("meta:set_meta()", "policy.lua:2: argument 2 of set_meta: expected a string, got nil"),
        (
            "kumo.make_queue_confg {}",
            "policy.lua:2: this version has no kumo.make_queue_confg (did you mean `make_queue_config`?)",
        ),
        (
            "setmetatable({}, {__gc = print})",
            "policy.lua:2: __gc isn't supported: what it does would run outside of policy's budget",
        ),
        (
            "kumo.on('init', print)",
            "policy.lua:2: kumo.on: handlers are registered while the policy's files run, not inside of a handler; move this to the top level",
        ),
        (
            "kumo.define_spool {name = 'data', path = '/x'}",
            "policy.lua:2: kumo.define_spool: call it inside of the init event's handler",
        ),
        ("coroutine.wrap(function() error('inside') end)()", "policy.lua:2: inside"),
        ("load('x = = 1')", ""),
        ("error()", "policy.lua:2: nil"),
    ] {
        let source = format!("kumo.on('smtp_server_mail_from', function(from, meta)\n{body}\nend)");
        let got = verdict(&source, mail_from("x@y.test")).await;
        match expected {
            "" => assert!(matches!(got, Verdict::Proceed), "{body}: {got:?}"),
            _ => assert_eq!(failure(got), format!("event smtp_server_mail_from: {expected}")),
        }
    }
}

#[tokio::test]
async fn a_message_comes_back_as_policy_left_it() {
    let source = "kumo.on('smtp_server_message_received', function(msg)
        msg:set_meta('tenant', 't1')
        msg:append_header('X-One', '1')
    end)";
    let what = Asked::MessageReceived { message: message("A: b\r\n\r\nbody\r\n") };
    let Verdict::Message(changed) = verdict(source, what).await else { panic!("no message") };
    assert_eq!(changed.meta["tenant"], "t1");
    assert_eq!(changed.body, "A: b\r\nX-One: 1\r\n\r\nbody\r\n");
}

#[tokio::test]
async fn a_message_kept_after_its_handler_is_out_of_reach() {
    let source = "local kept
    kumo.on('smtp_server_data', function(msg) kept = msg end)
    kumo.on('smtp_server_mail_from', function() return kept:id() end)";
    let policy = load(source).await;
    ask(&policy, Asked::Data { message: message("") }).await;
    let text = failure(ask(&policy, mail_from("")).await.verdict);
    assert!(text.ends_with("belongs to a handler that has returned; don't keep it"), "{text}");
}

#[tokio::test]
async fn an_injected_message_is_changed_rejected_or_failed() {
    let source = "kumo.on('http_message_generated', function(msg)
        local subject = msg:get_first_named_header_value 'Subject'
        if subject == 'reject' then kumo.reject(550, 'no') end
        if subject == 'fail' then error 'oops' end
        msg:set_sender ''
    end)";
    let policy = load(source).await;
    let ask = async |body| policy.message_generated(message(body)).await;
    let kept = ask("Subject: fine\r\n\r\n").await;
    assert!(
        matches!(kept, Generated::Proceed(message) if message.envelope.sender == ReversePath::Null)
    );
    let no = ask("Subject: reject\r\n\r\n").await;
    assert!(matches!(no, Generated::Reject(reply) if reply.code == 550));
    let failed = ask("Subject: fail\r\n\r\n").await;
    assert!(matches!(failed, Generated::Failed(text) if text.contains("policy.lua:4: oops")));
}

#[tokio::test]
async fn a_handler_may_sleep_and_holds_up_no_other() {
    let source = "kumo.on('smtp_server_mail_from', function() kumo.time.sleep(0.2) end)
        kumo.on('smtp_server_rcpt_to', function() kumo.sleep(-1) end)";
    let policy = load(source).await;
    let began = std::time::Instant::now();
    let (one, other) = tokio::join!(ask(&policy, mail_from("")), ask(&policy, mail_from("")));
    assert!(matches!((one.verdict, other.verdict), (Verdict::Proceed, Verdict::Proceed)));
    let took = began.elapsed();
    assert!(took >= std::time::Duration::from_millis(200), "{took:?}");
    assert_eq!(policy.idle_states(), 2, "both slept at the same time");
    let recipient = Mailbox::parse("to@rcpt.test").unwrap();
    let Verdict::Failed(why) = ask(&policy, Asked::RcptTo { recipient }).await.verdict else {
        panic!("it can't sleep for less than nothing")
    };
    assert!(why.contains("sleep takes between 0 and 3600 seconds"), "{why}");
}
