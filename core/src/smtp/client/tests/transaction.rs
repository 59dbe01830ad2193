//! Transactions: what is sent, and each recipient's fate.
use super::*;

const ONE_BY_ONE: fn(&mut EgressPath) = |path| path.enable_pipelining = false;
const LMTP: fn(&mut EgressPath) = |path| path.use_lmtp = true;
const DOT: &str = ".\r\n";

/// Delivers to a, b and c over a pipelined session that hears `replies`, one each time it has to answer.
fn three(replies: &[&str]) -> Dialogue {
    let mut dialogue = Dialogue::delivering(&["a@x.test", "b@x.test", "c@x.test"], |_| {});
    for reply in replies {
        dialogue.hear(reply);
    }
    dialogue
}

#[test]
fn a_pipelined_envelope_leaves_at_once_and_the_content_after_354() {
    let mut dialogue = three(&[]);
    let envelope = "MAIL FROM:<me@us.test>\r\nRCPT TO:<a@x.test>\r\nRCPT TO:<b@x.test>\r\n\
                    RCPT TO:<c@x.test>\r\nDATA\r\n";
    assert_eq!(dialogue.heard(), envelope);
    for (reply, phase) in [
        ("", "MAIL FROM"),
        ("250 ok\r\n", "RCPT TO"),
        ("250 ok\r\n250 ok\r\n250 ok\r\n", "DATA"),
        ("354 go\r\n", "waiting for the reply to the message"),
    ] {
        dialogue.hear(reply);
        assert_eq!(dialogue.session.phase(), phase);
    }
    assert_eq!(dialogue.heard(), format!("{BODY}.\r\n"));
    dialogue.hear("250 2.0.0 queued as 1\r\n");
    assert_eq!(dialogue.fates(), ["delivered 250"; 3]);
    assert_eq!(dialogue.reply(0), "250 2.0.0 queued as 1");
    assert!(dialogue.is_reusable());
    assert_eq!((dialogue.ready, dialogue.heard().as_str()), (2, ""));
}

#[test]
fn without_pipelining_each_command_waits_for_the_last_reply() {
    let servers: [fn() -> Dialogue; 2] =
        [|| Dialogue::ready(ONE_BY_ONE), || Dialogue::greeted("250 plain\r\n", |_| {})];
    for server in servers {
        let mut dialogue = server();
        dialogue.deliver(job(&["a@x.test", "b@x.test"]));
        for (said, reply) in [
            ("MAIL FROM:<me@us.test>\r\n", "250 ok\r\n"),
            ("RCPT TO:<a@x.test>\r\n", "550 5.1.1 no\r\n"),
            ("RCPT TO:<b@x.test>\r\n", "251 ok\r\n"),
            ("DATA\r\n", "354 go\r\n"),
            ("Subject: s\r\n\r\nhello\r\n.\r\n", "250 ok\r\n"),
        ] {
            assert_eq!(dialogue.heard(), said);
            dialogue.hear(reply);
        }
        assert_eq!(dialogue.fates(), ["refused 550", "delivered 250"]);
        assert!(dialogue.is_reusable());
    }
}

#[test]
fn without_pipelining_nobody_accepted_means_no_data() {
    let mut dialogue = Dialogue::delivering(&["a@x.test"], ONE_BY_ONE);
    dialogue.hear("250 ok\r\n");
    dialogue.hear("450 4.2.1 later\r\n");
    assert!(dialogue.heard().ends_with("RCPT TO:<a@x.test>\r\nRSET\r\n"));
    assert_eq!(dialogue.reports.len(), 0, "the report tells whether the session can be used again");
    dialogue.hear("250 ok\r\n");
    assert_eq!(dialogue.fates(), ["deferred 450"]);
    assert!(dialogue.is_reusable());
}

#[test]
fn mail_parameters_are_what_the_message_needs_and_the_server_offers() {
    let ascii = "A: b\r\n\r\nx\r\n";
    let eight = "A: b\r\n\r\nä\r\n";
    let header = "A: ä\r\n\r\nx\r\n";
    for (ehlo, sender, body, expected) in [
        ("PIPELINING", "", ascii, "MAIL FROM:<>"),
        ("8BITMIME\r\n250 SMTPUTF8", "a@b", ascii, "MAIL FROM:<a@b>"),
        ("8BITMIME", "a@b", eight, "MAIL FROM:<a@b> BODY=8BITMIME"),
        ("8BITMIME\r\n250 SMTPUTF8", "a@b", header, "MAIL FROM:<a@b> BODY=8BITMIME SMTPUTF8"),
        ("SMTPUTF8", "ä@b", ascii, "MAIL FROM:<ä@b> SMTPUTF8"),
        ("SIZE 11", "a@b", ascii, "MAIL FROM:<a@b> SIZE=11"),
        ("SIZE", "a@b", "x", "MAIL FROM:<a@b> SIZE=3"),
    ] {
        let ehlo = format!("250-mx.test\r\n250-{ehlo}\r\n").replace("\r\n250 ", "\r\n250-");
        let mut dialogue = Dialogue::greeted(&format!("{ehlo}250 X\r\n"), ONE_BY_ONE);
        let sender = ReversePath::parse(sender).unwrap();
        dialogue.deliver(Job { sender, body: body.into(), ..job(&["a@x.test"]) });
        assert_eq!(dialogue.heard(), format!("{expected}\r\n"));
    }
}

#[test]
fn what_the_server_cannot_take_is_refused_without_a_word() {
    let eight = "A: b\r\n\r\nä\r\n";
    for (ehlo, to, body, reply) in [
        (
            "SMTPUTF8",
            "a@x.test",
            eight,
            "554 5.6.3 KumoMTA internal: DATA is 8bit, destination does not support 8BITMIME. ",
        ),
        ("8BITMIME", "a@x.test", "A: ä\r\n\r\n", "553 5.6.7 KumoMTA internal: "),
        ("8BITMIME", "ä@x.test", "x", "553 5.6.7 KumoMTA internal: "),
        (
            "SIZE 10",
            "a@x.test",
            "123456789",
            "552 5.3.4 KumoMTA internal: the message has 11 octets, destination takes at most 10",
        ),
    ] {
        let mut dialogue = Dialogue::greeted(&format!("250-mx.test\r\n250 {ehlo}\r\n"), |_| {});
        dialogue.deliver(Job { body: body.into(), ..job(&[to, "b@x.test"]) });
        assert!(dialogue.reply(0).starts_with(reply), "{}", dialogue.reply(0));
        assert!(dialogue.fates().iter().all(|fate| fate.starts_with("refused")));
        assert_eq!(
            (dialogue.heard().as_str(), dialogue.ready, dialogue.is_reusable()),
            ("", 2, true)
        );
    }
    let mut dialogue = Dialogue::greeted("250 plain\r\n", |path| path.ignore_8bit_checks = true);
    dialogue.deliver(Job { body: "A: ä\r\n\r\n".into(), ..job(&["ä@x.test"]) });
    assert_eq!(dialogue.heard(), "MAIL FROM:<me@us.test>\r\n");
}

#[test]
fn each_recipient_gets_its_own_fate() {
    for (replies, fates) in [
        // MAIL, three RCPTs, DATA, the dot.
        (
            ["250", "250", "550 5.1.1", "450", "354", "250"],
            ["delivered 250", "refused 550", "deferred 450"],
        ),
        (
            ["250", "250", "550", "250", "354", "451"],
            ["deferred 451", "refused 550", "deferred 451"],
        ),
        (["250", "250", "250", "250", "354", "554"], ["refused 554"; 3]),
        (["250", "250", "450", "250", "554", ""], ["refused 554", "deferred 450", "refused 554"]),
        (["250", "250", "450", "250", "451", ""], ["deferred 451", "deferred 450", "deferred 451"]),
        (["250", "550", "551", "450", "503", ""], ["refused 550", "refused 551", "deferred 450"]),
        (
            ["250", "550", "551", "450", "354", "250"],
            ["refused 550", "refused 551", "deferred 450"],
        ),
        (
            ["250", "550", "551", "450", "354", "554"],
            ["refused 550", "refused 551", "deferred 450"],
        ),
        (["451", "503", "503", "503", "503", ""], ["deferred 451"; 3]),
        (["550", "503", "503", "503", "503", ""], ["refused 550"; 3]),
        (["550", "503", "503", "503", "354", "554"], ["refused 550"; 3]),
        // Too many recipients: the next transaction is for them.
        (
            ["250", "250", "452", "452 4.5.3 many", "354", "250"],
            ["delivered 250", "returned", "returned"],
        ),
        (
            ["250", "250", "552 5.5.3 many", "552 Too many recipients", "354", "250"],
            ["delivered 250", "returned", "returned"],
        ),
        (
            ["250", "250", "452 4.2.2 full", "552 5.2.2 full", "354", "250"],
            ["delivered 250", "deferred 452", "refused 552"],
        ),
        (
            ["250", "452", "250", "552 full", "354", "250"],
            ["deferred 452", "delivered 250", "refused 552"],
        ),
        (["250", "250", "452", "452", "451", ""], ["deferred 451", "returned", "returned"]),
    ] {
        let mut dialogue = three(&[]);
        for reply in replies.iter().filter(|reply| !reply.is_empty()) {
            dialogue.hear(format!("{reply}\r\n"));
        }
        let is_complete = fates.iter().any(|fate| fate.starts_with("delivered"));
        let said = dialogue.heard();
        assert_eq!(said.ends_with("RSET\r\n"), !is_complete, "{replies:?}: {said}");
        if !is_complete {
            dialogue.hear("250 ok\r\n");
        }
        assert_eq!(dialogue.fates(), fates, "{replies:?}");
        assert!(dialogue.is_reusable() && dialogue.ready == 2, "{replies:?}");
        let has_content = said.contains("hello");
        let dot_was_for_somebody = replies[4] == "354" && replies[1..4].contains(&"250");
        assert_eq!(has_content, dot_was_for_somebody, "{replies:?}");
    }
}

#[test]
fn replies_name_the_command_they_answer() {
    let mut dialogue =
        three(&["250 ok\r\n550 no\r\n250 ok\r\n250 ok\r\n", "354 go\r\n", "250 ok\r\n"]);
    let fates = dialogue.reports.remove(0).fates.into_iter();
    let command = |(_, fate): (u32, Fate)| match fate {
        Fate::Delivered(reply) | Fate::Refused(reply) => reply.command.unwrap(),
        other => panic!("{other:?}"),
    };
    let commands: Vec<String> = fates.map(command).collect();
    assert_eq!(commands, ["RCPT TO:<a@x.test>", ".", "."]);
}

#[test]
fn a_421_decides_for_those_without_a_verdict_and_ends_the_session() {
    for (replies, fates) in [
        ("421 4.3.2 bye\r\n", ["deferred 421"; 3]),
        ("250 ok\r\n421 bye\r\n", ["deferred 421"; 3]),
        ("250 ok\r\n550 no\r\n421 bye\r\n", ["refused 550", "deferred 421", "deferred 421"]),
        (
            "250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n421 bye\r\n",
            ["deferred 421", "refused 550", "deferred 421"],
        ),
        (
            "250 ok\r\n250 ok\r\n550 no\r\n452 many\r\n354 go\r\n",
            ["deferred 421", "refused 550", "returned"],
        ),
        (
            "250 ok\r\n550 no\r\n550 no\r\n450 no\r\n354 go\r\n",
            ["refused 550", "refused 550", "deferred 450"],
        ),
    ] {
        let mut dialogue = three(&[replies]);
        if replies.contains("354") {
            dialogue.hear("421 bye\r\n");
        }
        assert_eq!(dialogue.fates(), fates, "{replies}");
        assert!(!dialogue.is_reusable());
        assert!(dialogue.why().contains("421"), "{}", dialogue.why());
    }
}

#[test]
fn a_421_instead_of_an_answer_to_rset_ends_the_session_but_changes_no_fate() {
    for reply in ["421 bye\r\n", "500 what?\r\n"] {
        let dialogue = three(&["550 no\r\n503 a\r\n503 b\r\n503 c\r\n503 d\r\n", reply]);
        assert_eq!(dialogue.fates(), ["refused 550"; 3]);
        assert!(!dialogue.is_reusable() && dialogue.why().starts_with("the reply to RSET was"));
    }
    let mut dialogue = three(&["550 no\r\n503 a\r\n503 b\r\n503 c\r\n503 d\r\n"]);
    assert_eq!(dialogue.session.phase(), "RSET");
    dialogue.wait(5);
    assert_eq!(dialogue.fates(), ["refused 550"; 3]);
    assert!(!dialogue.is_reusable() && dialogue.why().contains("waiting for the reply to RSET"));
}

#[test]
fn without_rset_a_failed_transaction_is_the_last() {
    let mut dialogue = Dialogue::delivering(&["a@x.test"], |path| path.enable_rset = false);
    dialogue.hear("550 no\r\n503 a\r\n503 b\r\n");
    assert_eq!(dialogue.fates(), ["refused 550"]);
    assert!(!dialogue.is_reusable() && dialogue.heard().ends_with("DATA\r\nQUIT\r\n"));
    dialogue.hear("221 bye\r\n");
    assert_eq!(dialogue.closed, Some(Closed::Done));
}

#[test]
fn a_session_is_used_for_one_transaction_after_another() {
    let mut dialogue = Dialogue::ready(|_| {});
    for (replies, fate) in [
        ("250 ok\r\n250 ok\r\n354 go\r\n", "delivered 250"),
        ("250 ok\r\n550 no\r\n503 no\r\n", "refused 550"),
        ("250 ok\r\n250 ok\r\n354 go\r\n", "delivered 250"),
    ] {
        dialogue.deliver(job(&["a@x.test"]));
        dialogue.hear(replies);
        dialogue.hear("250 ok\r\n");
        assert_eq!(dialogue.fates(), [fate]);
    }
    assert_eq!((dialogue.ready, dialogue.reports.len()), (4, 3));
}

#[test]
fn close_during_a_transaction_waits_for_its_end() {
    for (last, fate) in [("250 ok\r\n", "delivered 250"), ("554 no\r\n", "refused 554")] {
        let mut dialogue = three(&["250 ok\r\n"]);
        dialogue.input(Input::Close);
        dialogue.hear("250 a\r\n250 b\r\n250 c\r\n354 go\r\n");
        dialogue.heard();
        dialogue.hear(last);
        assert_eq!(dialogue.fates(), [fate; 3]);
        assert!(!dialogue.is_reusable());
        assert_eq!(dialogue.heard(), "QUIT\r\n");
        dialogue.hear("221 bye\r\n");
        assert_eq!(dialogue.closed, Some(Closed::Done));
    }
}

/// The steps of a delivery to a, b and c; b is refused.
const STEPS: [&str; 4] =
    ["250 ok\r\n", "250 ok\r\n550 no\r\n250 ok\r\n", "354 go\r\n", "250 ok\r\n"];

#[test]
fn a_connection_lost_before_the_final_dot_defers_and_after_it_nobody_knows() {
    let text = "451 4.4.2 KumoMTA internal: connection lost while ";
    let ended: fn(&mut Dialogue) = |d| d.input(Input::Ended);
    let timeout: fn(&mut Dialogue) = |d| d.wait(600);
    for (step, why) in
        [(ended, "the server closed the connection"), (timeout, "nothing came within")]
    {
        for (steps, phase) in [(0, "MAIL FROM"), (1, "RCPT TO"), (2, "DATA")] {
            let mut dialogue = three(&STEPS[..steps]);
            step(&mut dialogue);
            let second = if steps == 2 { "refused 550" } else { "deferred 451" };
            assert_eq!(dialogue.fates(), ["deferred 451", second, "deferred 451"]);
            let expected = format!("{text}waiting for the reply to {phase}: {why}");
            assert!(dialogue.reply(0).starts_with(&expected), "{}", dialogue.reply(0));
            assert!(!dialogue.is_reusable());
        }
        let mut dialogue = three(&STEPS[..3]);
        step(&mut dialogue);
        assert_eq!(dialogue.fates(), ["unknown", "refused 550", "unknown"]);
        let expected = "connection lost while waiting for the reply to the message: ";
        assert!(dialogue.why().starts_with(expected), "{}", dialogue.why());
    }
}

#[test]
fn abort_before_the_final_dot_gives_back_and_after_it_nobody_knows() {
    for (steps, fates) in [
        (0, ["returned"; 3]),
        (1, ["returned"; 3]),
        (2, ["returned", "refused 550", "returned"]),
        (3, ["unknown", "refused 550", "unknown"]),
    ] {
        let mut dialogue = three(&STEPS[..steps]);
        assert_eq!(dialogue.session.has_sent_final_dot(), steps == 3);
        dialogue.input(Input::Abort);
        assert_eq!(dialogue.fates(), fates);
        assert_eq!((dialogue.is_reusable(), &dialogue.closed), (false, &Some(Closed::Done)));
    }
    let mut dialogue = three(&["550 no\r\n503 a\r\n503 b\r\n503 c\r\n503 d\r\n"]);
    dialogue.input(Input::Abort);
    assert_eq!(dialogue.fates(), ["refused 550"; 3]);
}

// ---- Content -------------------------------------------------------------------------------------------

/// A session told to send 300,000 octets, which leave only as told.
fn sending() -> Dialogue {
    let mut dialogue = Dialogue::ready(|_| {});
    dialogue.deliver(Job { body: "0123456\r\n".repeat(33_334).into(), ..job(&["a@x.test"]) });
    dialogue.hear("250 ok\r\n250 ok\r\n");
    dialogue.heard();
    dialogue.flushes = false;
    dialogue.hear("354 go\r\n");
    dialogue
}

#[test]
fn long_content_leaves_block_by_block_and_each_may_take_its_time() {
    let mut dialogue = sending();
    let mut octets = 0;
    for block in 1..=3 {
        let said = dialogue.heard();
        octets += said.len();
        assert_eq!(said.ends_with("\r\n.\r\n"), block == 3);
        dialogue.hear("");
        dialogue.wait(299);
        assert_eq!(
            (dialogue.session.phase(), dialogue.heard().as_str()),
            ("sending the message", "")
        );
        dialogue.input(Input::Flushed);
    }
    assert_eq!(octets, 33_334 * 9 + DOT.len());
    dialogue.wait(599);
    dialogue.hear("250 ok\r\n");
    assert_eq!(dialogue.fates(), ["delivered 250"]);
}

#[test]
fn a_server_that_stops_reading_gets_no_final_dot() {
    let mut dialogue = sending();
    dialogue.input(Input::Flushed);
    dialogue.wait(300);
    assert_eq!(dialogue.fates(), ["deferred 451"]);
    assert!(
        dialogue
            .reply(0)
            .ends_with("sending the message: the server did not take what was sent within 300s")
    );
    assert!(!dialogue.heard().ends_with(DOT));
}

#[test]
fn an_early_answer_to_the_content_is_a_no_or_no_answer() {
    for (reply, before_dot, after_dot) in [
        ("552 5.3.4 too big\r\n", "refused 552", "refused 552"),
        ("451 later\r\n", "deferred 451", "deferred 451"),
        ("421 bye\r\n", "deferred 421", "deferred 421"),
        ("250 ok\r\n", "deferred 451", "unknown"),
        ("354 go\r\n", "deferred 451", "unknown"),
        ("xyz\r\n", "deferred 451", "unknown"),
    ] {
        for (flushes, expected) in [(0, before_dot), (2, after_dot)] {
            let mut dialogue = sending();
            for _ in 0..flushes {
                dialogue.input(Input::Flushed);
            }
            assert_eq!(dialogue.heard().ends_with(DOT), flushes == 2);
            dialogue.hear(reply);
            assert_eq!(dialogue.fates(), [expected], "{reply}");
            assert!(!dialogue.is_reusable() && dialogue.closed.is_some());
        }
    }
}

// ---- LMTP ----------------------------------------------------------------------------------------------

#[test]
fn lmtp_has_a_verdict_for_each_accepted_recipient() {
    let mut dialogue = Dialogue::connected(LMTP);
    dialogue.hear("220 mx.test\r\n");
    assert_eq!(dialogue.heard(), "LHLO us.test\r\n");
    dialogue.hear(EHLO);
    dialogue.deliver(job(&["a@x.test", "b@x.test", "c@x.test"]));
    dialogue.hear("250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n");
    dialogue.hear("250 ok\r\n");
    assert_eq!(dialogue.reports.len(), 0);
    dialogue.hear("452 full\r\n");
    assert_eq!(dialogue.fates(), ["delivered 250", "refused 550", "deferred 452"]);
    assert!(dialogue.is_reusable() && dialogue.heard().ends_with(DOT), "nothing is left to reset");
}

#[test]
fn lmtp_verdicts_that_do_not_come_are_unknown() {
    for (last, third) in
        [("421 bye\r\n", "deferred 421"), ("", "unknown"), ("100 what\r\n", "unknown")]
    {
        let mut dialogue = Dialogue::delivering(&["a@x.test", "b@x.test", "c@x.test"], LMTP);
        dialogue.hear("250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
        dialogue.hear(format!("250 ok\r\n550 no\r\n{last}"));
        dialogue.input(Input::Ended);
        assert_eq!(dialogue.fates(), ["delivered 250", "refused 550", third]);
    }
}

#[test]
fn lmtp_has_no_helo_and_no_content_for_nobody() {
    let mut dialogue = Dialogue::greeted("500 what?\r\n", LMTP);
    assert_eq!(dialogue.why(), "the reply to LHLO was 500 what?");
    dialogue = Dialogue::delivering(&["a@x.test"], LMTP);
    dialogue.hear("250 ok\r\n550 no\r\n354 go\r\n");
    assert_eq!(dialogue.fates(), ["deferred 451"]);
    assert!(!dialogue.heard().contains(DOT));
}
