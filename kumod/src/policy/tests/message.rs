//! The methods of messages, as a table: what runs, and what must then hold.
use super::*;

const BODY: &str = "Received: one\r\nSubject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe?=\r\nX-Tag: 1\r\nx-tag: 2\r\nX-Other: o\r\n\r\nHi\r\n";

async fn run(code: &str) -> Result<Message, String> {
    let source = format!("kumo.on('smtp_server_data', function(msg)\n{code}\nend)");
    match verdict(&source, Asked::Data { message: message(BODY) }).await {
        Verdict::Message(message) => Ok(message),
        other => Err(failure(other)),
    }
}

#[tokio::test]
async fn what_methods_return() {
    for code in [
        "assert(msg:id() == ('07'):rep(16))",
        "assert(tostring(msg) == 'message ' .. msg:id())",
        "assert(msg:sender().email == 'from@sender.test')",
        "local list = msg:recipient_list() assert(#list == 2 and list[2].domain == 'two.test')",
        "assert(#msg:recipient() == 2)",
        "msg:set_recipient 'x@y.test' assert(msg:recipient().user == 'x')",
        "assert(msg:num_attempts() == 3) msg:increment_num_attempts() assert(msg:num_attempts() == 4)",
        "assert(msg:queue_name() == 'one.test')",
        "msg:set_meta('tenant', 't') msg:set_meta('campaign', 'c') assert(msg:queue_name() == 'c:t@one.test')",
        "assert(msg:get_meta 'x' == nil) msg:set_meta('x', {a = {1, 2}}) assert(msg:get_meta('x').a[2] == 2)",
        "msg:set_meta('x', 1) msg:set_meta('x', nil) assert(msg:get_meta 'x' == nil)",
        "assert(#msg:get_data() == 95 and msg:get_data():sub(-4) == 'Hi\\r\\n')",
        "assert(msg:get_first_named_header_value 'subject' == 'Grüße')",
        "assert(msg:get_first_named_header_value 'none' == nil)",
        "local all = msg:get_all_named_header_values 'X-TAG' assert(#all == 2 and all[2] == '2')",
        "local all = msg:get_all_headers() assert(#all == 5 and all[1][1] == 'Received' and all[2][2] == 'Grüße')",
        "msg:import_x_headers() assert(msg:get_meta 'x_tag' == '2' and msg:get_meta 'x_other' == 'o')",
        "msg:import_x_headers({'X-Tag'}, true) assert(msg:get_meta 'x_tag' == '1' and msg:get_meta 'x_other' == nil)",
        "msg:import_x_headers { 'subject' } assert(msg:get_meta 'subject' == 'Grüße')",
        "assert(msg:get_due() == nil) msg:set_due '2026-11-24T17:00:00+01:00' assert(msg:get_due() == '2026-11-24T16:00:00.000000Z')",
        "msg:set_due(0.5) assert(msg:get_due() == '1970-01-01T00:00:00.500000Z')",
        "local s = msg:set_scheduling { expires = '2026-11-24T17:00:00Z' } assert(s.expires == '2026-11-24T17:00:00.000000Z' and s.first_attempt == nil)",
        "msg:set_due(5) assert(msg:set_scheduling(nil) == nil and msg:get_due() == nil)",
        "msg:append_header('X-S', '{\"first_attempt\":\"2026-11-24T17:00:00Z\"}') msg:import_scheduling_header('X-S', true) assert(msg:get_due() and not msg:get_first_named_header_value 'X-S')",
        "assert(msg:import_scheduling_header 'X-None' == nil)",
        "msg:save() msg:shrink() msg:shrink_data() msg:set_force_sync(true)",
    ] {
        if let Err(error) = run(code).await {
            panic!("{code}: {error}");
        }
    }
}

#[tokio::test]
async fn what_methods_change() {
    let body = |message: &Message| String::from_utf8(message.body.to_vec()).unwrap();
    let changed = async |code: &str| run(code).await.unwrap_or_else(|error| panic!("{code}: {error}"));

    let message = changed("msg:set_sender 'new@s.test'").await;
    assert_eq!(message.envelope.sender.as_str(), "new@s.test");
    assert_eq!(changed("msg:set_sender ''").await.envelope.sender, ReversePath::Null);
    let message = changed("msg:set_recipient { 'x@y.test', msg:sender(), '<z@y.test>' }").await;
    assert_eq!(message.envelope.recipients.len(), 3);
    assert_eq!(message.remaining, RecipientSet::all(3));
    let message = changed("msg:prepend_header('A', 'b') msg:append_header('Z', 'y')").await;
    assert!(body(&message).starts_with("A: b\r\nReceived: one\r\n"));
    assert!(body(&message).ends_with("X-Other: o\r\nZ: y\r\n\r\nHi\r\n"));
    let message = changed("msg:prepend_header('Subject', 'Grüße', true)").await;
    assert!(body(&message).starts_with("Subject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe?=\r\n"));
    let message = changed("msg:remove_all_named_headers 'x-tag'").await;
    assert!(!body(&message).to_lowercase().contains("x-tag") && body(&message).contains("X-Other"));
    assert!(!body(&changed("msg:remove_x_headers()").await).to_lowercase().contains("\nx-"));
    let message = changed("msg:remove_x_headers { 'x-other', 'Received' }").await;
    assert!(body(&message).starts_with("Subject") && body(&message).contains("X-Tag: 1"));
    for (data, kept) in [("a\\nb", "a\r\nb\r\n"), ("a\\r\\n\\rb\\r\\n", "a\r\n\r\nb\r\n"), ("", "")] {
        assert_eq!(body(&changed(&format!("msg:set_data '{data}'")).await), kept);
    }
    let message = changed("msg:set_data '\\xff\\n'").await;
    assert_eq!(&message.body[..], b"\xff\r\n");
}

#[tokio::test]
async fn what_methods_refuse() {
    for (code, text) in [
        ("msg:set_sender(5)", "expected an address, got the number 5"),
        ("msg:set_sender 'no'", "the string \"no\": an address needs an @"),
        ("msg:set_recipient ''", "a recipient can't be the empty address"),
        ("msg:set_recipient {}", "set_recipient: from 1 to 65536 recipients, not 0"),
        ("msg:append_header('A B', 'x')", "a header field's name is made of printable ASCII"),
        ("msg:set_due 'soon'", "\"soon\" is no RFC 3339 date and time"),
        ("msg:set_scheduling { first_atempt = 'x' }", "did you mean `first_attempt`?"),
        ("msg:set_scheduling { dow = 'Mon', tz = 'UTC' }", "delivery windows aren't supported"),
        ("msg:set_meta('queue', {})", "set_meta: queue is a string, not a table"),
        ("msg:dkim_sign(1)", "messages have no method \"dkim_sign\" in this version"),
        ("msg:set_recipients 'x'", "in this version (did you mean `set_recipient`?)"),
        ("msg.set_meta('a', 'b')", "policy.lua:2: "),
        ("msg:import_scheduling_header 'Subject'", "import_scheduling_header: Subject: expected value"),
    ] {
        let error = run(code).await.expect_err(code);
        assert!(error.starts_with("event smtp_server_data: policy.lua:2: "), "{code}: {error}");
        assert!(error.contains(text), "{code}: {error}");
    }
}

#[tokio::test]
async fn every_method_in_the_hint_exists() {
    for name in crate::policy::message::METHODS {
        let code = format!("assert(type(msg.{name}) == 'function')");
        if let Err(error) = run(&code).await {
            panic!("{error}");
        }
    }
}
