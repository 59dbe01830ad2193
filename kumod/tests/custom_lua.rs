//! The binary with a policy that delivers by itself (`custom_lua`), into a file: what its senders may say, and that one which sleeps, spins or
//! blocks its thread costs nobody but itself.
mod support;

use serde_json::Value;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Client, Home, Kumod, PATIENCE, wait_for};

const CONTENT: &str = "Subject: x\r\n\r\nx\r\n";

/// Everything to one constructor. `lua`: further fields of `custom_lua`; `path`: of the egress path; `constructor`: its body, to which
/// `take(what)` appends a line to the sink.
fn handlers(home: &Home, lua: &str, path: &str, constructor: &str) -> String {
    format!(
        "local function take(what)
           local file = assert(io.open('{sink}', 'a'))
           file:write(what, '\\n')
           file:close()
         end
         kumo.on('get_queue_config', function()
           return kumo.make_queue_config {{
             protocol = {{ custom_lua = {{ constructor = 'make.sink', {lua} }} }}, retry_interval = '1s',
           }}
         end)
         kumo.on('get_egress_path_config', function()
           return kumo.make_egress_path {{ {path} }}
         end)
         kumo.on('make.sink', function(domain, tenant, campaign)
           {constructor}
         end)",
        sink = sink(home).display()
    )
}

fn sink(home: &Home) -> std::path::PathBuf {
    home.path("sink")
}

/// With a sink that kumod's user may write to.
fn home() -> Home {
    let home = Home::new();
    fs::write(sink(&home), "").expect("the sink can be made");
    for_everybody(&sink(&home));
    home
}

fn for_everybody(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("it is ours");
}

fn taken(home: &Home) -> Vec<String> {
    let text = fs::read_to_string(sink(home)).expect("the sink is there");
    text.lines().map(Into::into).collect()
}

fn send_to(kumod: &Kumod, names: &[&str]) {
    let mut client = Client::greet(kumod.address()).unwrap();
    for name in names {
        let reply = client.send("ann@client.example", &[&format!("{name}@sink.example")], CONTENT);
        assert_eq!(reply.unwrap().code, 250);
    }
}

/// Records but receptions, of the recipient of that name, in order.
fn records_of(home: &Home, name: &str) -> Vec<Value> {
    let recipient = Value::from(format!("{name}@sink.example"));
    let records = home.records().into_iter();
    records.filter(|one| one["recipient"] == recipient && one["type"] != "Reception").collect()
}

fn end_of(home: &Home, name: &str) -> Vec<Value> {
    wait_for(&format!("the end of {name}"), PATIENCE, || {
        let records = records_of(home, name);
        let ends = |one: &Value| one["type"] == "Delivery" || one["type"] == "Bounce";
        records.last().is_some_and(ends).then_some(records)
    })
}

fn response(record: &Value) -> (String, u64, String) {
    let response = &record["response"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    (text(&record["type"]), response["code"].as_u64().unwrap(), text(&response["content"]))
}

/// By the recipient's name, and only at the first attempt.
const MOODY: &str = "
    local sender = { made_for = domain }
    function sender:send(msg)
      local name = msg:recipient().user
      if msg:num_attempts() == 0 then
        if name == 'never' then kumo.reject(550, '5.1.1 never') end
        if name == 'later' then kumo.reject(451, '4.2.0 later') end
        if name == 'away' then kumo.reject(421, '4.3.0 away') end
        if name == 'boom' then error('boom') end
        if name == 'mute' then return end
        if name == 'spin' then while true do end end
        if name == 'sleep' then kumo.sleep(3600) end
      end
      take(name .. ' of ' .. msg:sender().email .. ' ' .. #msg:get_data())
      return '2.0.0 taken for ' .. self.made_for
    end
    function sender:close() take('closed') end
    return sender";

#[test]
fn a_sender_of_policy_delivers_defers_bounces_and_fails() {
    let home = home();
    let policy = home.policy("", &handlers(&home, "", "", MOODY));
    let kumod = Kumod::start(&policy);
    send_to(&kumod, &["good", "later", "never", "away", "boom", "mute"]);
    let delivery = end_of(&home, "good").remove(0);
    assert_eq!(
        response(&delivery),
        ("Delivery".into(), 250, "taken for sink.example".into()),
        "{delivery}"
    );
    assert_eq!(delivery["delivery_protocol"], "Lua");
    assert_eq!(delivery["site"], "unspecified->sink.example@lua:make.sink");
    let place = policy.display().to_string();
    for (name, kind, code, text) in [
        ("never", "Bounce", 550, "never".to_string()),
        ("later", "TransientFailure", 451, "later".to_string()),
        ("away", "TransientFailure", 421, "away".to_string()),
        (
            "boom",
            "TransientFailure",
            400,
            format!("KumoMTA internal: event make.sink:send: {place}:"),
        ),
        (
            "mute",
            "TransientFailure",
            400,
            format!("KumoMTA internal: event make.sink:send: {place}:"),
        ),
    ] {
        let records = end_of(&home, name);
        let (first_kind, first_code, first_text) = response(&records[0]);
        assert_eq!((first_kind.as_str(), first_code), (kind, code), "{name}");
        assert!(first_text.starts_with(&text), "{name}: {first_text}");
        let expected = if kind == "Bounce" { 1 } else { 2 };
        assert_eq!(records.len(), expected, "{name}: {records:?}");
    }
    assert!(response(&records_of(&home, "boom")[0]).2.ends_with(": boom"));
    assert!(response(&records_of(&home, "mute")[0]).2.contains("returned nil"));
    let said = kumod.stop();
    assert!(said.iter().any(|line| line.contains("make.sink:send") && line.contains("boom")));
    let lines = taken(&home);
    let count = |name: &str| lines.iter().filter(|line| line.starts_with(name)).count();
    assert_eq!([count("good"), count("later"), count("boom"), count("never")], [1, 1, 1, 0]);
    assert!(count("closed") > 0, "{lines:?}");
}

#[test]
fn a_sender_that_sleeps_or_spins_is_given_up_and_its_message_goes_once() {
    let home = home();
    let path = "connection_limit = 1, data_dot_timeout = '2s'";
    let kumod = Kumod::start(&home.policy("", &handlers(&home, "", path, MOODY)));
    send_to(&kumod, &["sleep", "spin", "good"]);
    let lost =
        "KumoMTA internal: policy's sender was given up before it said what became of the message";
    let slept = end_of(&home, "sleep");
    assert_eq!(response(&slept[0]), ("TransientFailure".into(), 451, lost.into()));
    // Either its instructions are used up first, or its time.
    let spun = end_of(&home, "spin");
    let (kind, _, text) = response(&spun[0]);
    assert_eq!(kind, "TransientFailure");
    assert!(text == lost || text.contains("is there a loop without end?"), "{text}");
    end_of(&home, "good");
    for name in ["sleep", "spin"] {
        assert_eq!(records_of(&home, name).len(), 2, "{name}");
        let went = taken(&home).iter().filter(|line| line.starts_with(name)).count();
        assert_eq!(went, 1, "{name}");
    }
    kumod.stop();
}

/// Whoever opens it for reading waits inside of the operating system.
fn make_pipe(path: &Path) {
    let name = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: `name` outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    for_everybody(path);
}

#[test]
fn senders_that_block_their_threads_hold_up_neither_mail_nor_a_stop() {
    let home = home();
    let pipe = home.path("pipe");
    make_pipe(&pipe);
    let constructor = format!(
        "return {{ send = function(self, msg)
           local name = msg:recipient().user
           if name == 'block' and msg:num_attempts() == 0 then io.open('{}'):read('a') end
           take(name)
           return 'taken'
         end }}",
        pipe.display()
    );
    let path = "data_dot_timeout = '2s'";
    let policy = home.policy("", &handlers(&home, "", path, &constructor));
    let kumod = Kumod::start(&policy);
    // More of them than there are cores.
    let count = 2 * std::thread::available_parallelism().map_or(2, usize::from);
    send_to(&kumod, &vec!["block"; count]);
    send_to(&kumod, &["good"]);
    end_of(&home, "good");
    wait_for("the others' second attempt", PATIENCE, || {
        let delivered = home.records_of("Delivery").len();
        (delivered == count + 1).then_some(())
    });
    assert_eq!(home.records_of("TransientFailure").len(), count);
    let asked = Instant::now();
    kumod.stop();
    assert!(asked.elapsed() < Duration::from_millis(10_500), "{:?}", asked.elapsed());
    let again = Kumod::start(&policy);
    send_to(&again, &["good"]);
    wait_for("nothing but the new message", PATIENCE, || {
        (home.records_of("Delivery").len() == count + 2).then_some(())
    });
    again.stop();
    assert_eq!(taken(&home).len(), count + 2, "each message went once");
}

#[test]
fn a_batch_is_one_call_with_one_disposition() {
    let home = home();
    let constructor = "
        local sender = {}
        function sender:send_batch(messages)
          local names = {}
          for _, msg in ipairs(messages) do table.insert(names, msg:recipient().user) end
          take(table.concat(names, ' '))
          return 'a batch of ' .. #messages
        end
        return sender";
    let lua = "batch_size = 3, min_batch_size = 3, max_batch_latency = '4s'";
    let kumod = Kumod::start(&home.policy("", &handlers(&home, lua, "", constructor)));
    send_to(&kumod, &["a", "b", "c", "d"]);
    let sent = Instant::now();
    for name in ["a", "b", "c"] {
        assert_eq!(response(&end_of(&home, name)[0]).2, "a batch of 3");
    }
    assert_eq!(response(&end_of(&home, "d")[0]).2, "a batch of 1");
    assert!(sent.elapsed() > Duration::from_secs(3), "it waited for others");
    assert_eq!(taken(&home), ["a b c", "d"]);
    kumod.stop();
}

#[test]
fn a_sender_that_can_send_nothing_is_named() {
    let home = home();
    let policy = home.policy("", &handlers(&home, "", "", "return { deliver = print }"));
    let kumod = Kumod::start(&policy);
    send_to(&kumod, &["good"]);
    let record = wait_for("a record", PATIENCE, || records_of(&home, "good").into_iter().next());
    let (kind, code, text) = response(&record);
    assert_eq!((kind.as_str(), code), ("TransientFailure", 400));
    assert!(text.starts_with("KumoMTA internal: event make.sink: "), "{text}");
    assert!(text.contains("policy.lua:") && text.contains("neither a method send nor send_batch"));
    let said = kumod.stop();
    assert!(said.iter().any(|line| line.contains("neither a method send nor send_batch")));
}
