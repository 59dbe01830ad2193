//! Loops without end, memory without end, and calls that are given up.
use super::*;
use std::time::Duration;

/// A handler whose body is on line 2.
fn on_mail(body: &str) -> String {
    format!("kumo.on('smtp_server_mail_from', function(from, meta)\n{body}\nend)")
}

fn mail_from() -> Asked {
    Asked::MailFrom { sender: ReversePath::Null }
}

const OUT: &str = "ran out of its 2000000 instructions; is there a loop without end?";

#[tokio::test]
async fn loops_without_end_stop_wherever_they_are_and_whatever_they_catch() {
    let forever = "while true do end";
    for body in [
        forever.to_string(),
        format!("coroutine.wrap(function() {forever} end)()"),
        format!("local co = coroutine.create(function() {forever} end) coroutine.resume(co)"),
        format!("while true do pcall(function() {forever} end) end"),
        format!("while true do coroutine.resume(coroutine.create(function() {forever} end)) end"),
        "while true do pcall(coroutine.wrap(function() for i = 1, 100 do end end)) end".into(),
        format!("local function f() pcall(f) pcall(f) {forever} end f()"),
        format!("xpcall(function() {forever} end, function() {forever} end)"),
        format!("table.sort({{3, 2, 1}}, function() {forever} end)"),
        format!("setmetatable({{}}, {{__index = function() {forever} end}}).x()"),
        format!("local t <close> = setmetatable({{}}, {{__close = function() {forever} end}})"),
        "local co = coroutine.wrap(function() while true do coroutine.yield() end end) while true do co() end".into(),
        "while true do coroutine.yield() end".into(),
        "while true do meta:set_meta('x', ('y'):rep(100000)) end".into(),
        "while true do pcall(kumo.serde.json_parse, '[' .. (' '):rep(100000)) end".into(),
        "string.rep('', math.maxinteger) while true do end".into(),
    ] {
        let policy = load(&on_mail(&body)).await;
        let asked = ask(&policy, mail_from());
        let answer = tokio::time::timeout(Duration::from_secs(60), asked).await;
        let text = failure(answer.unwrap_or_else(|_| panic!("still runs: {body}")).verdict);
        assert_eq!(text, format!("event smtp_server_mail_from: policy.lua:2: {OUT}"), "{body}");
        assert_eq!(policy.idle_states(), 0, "the state is given up");
    }
}

#[tokio::test]
async fn a_loop_that_ends_within_its_budget_is_fine_and_budgets_are_per_call() {
    let policy = load(&on_mail("for i = 1, 500000 do end")).await;
    for _ in 0..10 {
        assert!(matches!(ask(&policy, mail_from()).await.verdict, Verdict::Proceed));
    }
    assert_eq!(policy.idle_states(), 1);
}

#[tokio::test]
async fn memory_without_end_names_event_and_line() {
    for body in [
        "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end",
        "local s = 'x' while true do s = s .. s end",
        "local s = ('x'):rep(1 << 40)",
        "local t = {} while true do pcall(function() t[#t + 1] = ('x'):rep(100000) end) end",
        "meta:set_meta('x', ('x'):rep(1 << 26))",
        "coroutine.wrap(function() local s = 'x' while true do s = s .. s end end)()",
    ] {
        let policy = load(&on_mail(body)).await;
        let text = failure(ask(&policy, mail_from()).await.verdict);
        let memory = "needs more than the 16 MiB of memory policy may use";
        let start = "event smtp_server_mail_from: policy.lua:2: ";
        let rest = text.strip_prefix(start).unwrap_or_else(|| panic!("{body}: {text}"));
        assert!(rest == memory || rest == OUT, "{body}: {text}");
    }
}

#[tokio::test]
async fn much_garbage_is_no_lack_of_memory() {
    let policy = load(&on_mail("for i = 1, 1000 do local s = ('x'):rep(1 << 20) .. i end")).await;
    for _ in 0..3 {
        assert!(matches!(ask(&policy, mail_from()).await.verdict, Verdict::Proceed));
    }
}

#[tokio::test]
async fn a_message_cannot_grow_without_end() {
    let source = "kumo.on('smtp_server_data', function(msg)
        local value = ('x'):rep(1 << 20)
        while true do msg:append_header('X', value) end
    end)";
    let options = PolicyOptions { instructions: u64::MAX, ..OPTIONS };
    let policy = load_with(source, options).await.unwrap().policy;
    let text = failure(ask(&policy, Asked::Data { message: message("") }).await.verdict);
    assert!(text.contains("policy.lua:3: the message would be"), "{text}");
    let source = "kumo.on('smtp_server_data', function(msg)
        for i = 1, 100 do msg:set_meta('x' .. i, ('x'):rep(100000)) end
    end)";
    let text = failure(verdict(source, Asked::Data { message: message("") }).await);
    assert!(text.contains("policy.lua:2: the metadata would be"), "{text}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_long_call_lets_others_run_and_ends_at_its_deadline() {
    let source = on_mail("if from.user == 'long' then while true do pcall(function() for i = 1, 1000 do end end) end end");
    let options = PolicyOptions { instructions: u64::MAX, states: 1, ..OPTIONS };
    let policy = load_with(&source, options).await.unwrap().policy;
    let long = Asked::MailFrom { sender: ReversePath::parse("long@x.test").unwrap() };
    let given_up = tokio::time::timeout(Duration::from_millis(50), ask(&policy, long)).await;
    assert!(given_up.is_err());
    assert_eq!(policy.idle_states(), 0, "what was interrupted isn't used again");
    assert!(matches!(ask(&policy, mail_from()).await.verdict, Verdict::Proceed));
}

#[tokio::test]
async fn hooks_do_not_disturb_coroutines() {
    let body = "local co = coroutine.wrap(function() for i = 1, 10 do for j = 1, 150000 do end coroutine.yield(i) end end)
    for i = 1, 10 do assert(co() == i, 'a value was lost') end";
    let options = PolicyOptions { instructions: 100_000_000, ..OPTIONS };
    let policy = load_with(&on_mail(body), options).await.unwrap().policy;
    assert!(matches!(ask(&policy, mail_from()).await.verdict, Verdict::Proceed));
}

#[tokio::test]
async fn calls_wait_for_a_state_and_then_get_it() {
    let options = PolicyOptions { states: 1, ..OPTIONS };
    let source = on_mail("for i = 1, 100000 do end");
    let policy = std::sync::Arc::new(load_with(&source, options).await.unwrap().policy);
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let policy = policy.clone();
            tokio::spawn(async move { ask(&policy, mail_from()).await.verdict })
        })
        .collect();
    for call in calls {
        assert!(matches!(call.await.unwrap(), Verdict::Proceed));
    }
    assert_eq!(policy.idle_states(), 1);
}

#[tokio::test]
async fn a_state_is_replaced_after_its_uses() {
    let options = PolicyOptions { uses: 5, ..OPTIONS };
    let source = format!("local count = 0 {}", on_mail("count = count + 1 meta:set_meta('count', count)"));
    let policy = load_with(&source, options).await.unwrap().policy;
    let mut counts = Vec::new();
    for _ in 0..6 {
        counts.push(ask(&policy, mail_from()).await.meta["count"].as_u64().unwrap());
    }
    // Running the file was the first use.
    assert_eq!(counts, [1, 2, 3, 4, 1, 2]);
}
