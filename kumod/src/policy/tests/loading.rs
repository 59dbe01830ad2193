//! Loading a policy: files, `init`, warnings, and the two tools.
use super::*;
use crate::policy::{Report, script, validate};
use kumo_core::config::SpoolKind;

async fn load_error(source: &str) -> String {
    match try_load(source).await {
        Ok(_) => panic!("it was loaded: {source}"),
        Err(error) => text(error),
    }
}

#[tokio::test]
async fn init_yields_what_it_asked_for_in_order() {
    let source = "
    kumo.on('pre_init', function() kumo.define_spool { name = 'data', path = '/var/spool/data' } end)
    kumo.on('pre_init', function() kumo.define_spool { name = 'meta', path = '/var/spool/meta', kind = 'LocalDisk' } end)
    kumo.on('init', function()
        kumo.start_esmtp_listener { listen = '127.0.0.1:2525' }
        kumo.start_http_listener { listen = '127.0.0.1:8008' }
        kumo.start_esmtp_listener { listen = '127.0.0.1:2526', relay_hosts = {} }
        kumo.configure_local_logs { log_dir = '/var/log/kumomta' }
    end)";
    let loaded = try_load(source).await.unwrap();
    let setup = loaded.setup;
    let spools: Vec<_> = setup.spools.iter().map(|spool| (&*spool.name, spool.kind)).collect();
    assert_eq!(spools, [("data", SpoolKind::RocksDB), ("meta", SpoolKind::LocalDisk)]);
    let ports: Vec<_> = setup.esmtp_listeners.iter().map(|one| one.listen.port()).collect();
    assert_eq!(ports, [2525, 2526]);
    assert!(setup.esmtp_listeners[1].relay_hosts.is_empty());
    assert_eq!(setup.http_listeners[0].listen.port(), 8008);
    assert_eq!(setup.local_logs.unwrap().log_dir, "/var/log/kumomta");
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[tokio::test]
async fn errors_of_loading_name_file_and_line() {
    for (source, expected) in [
        ("\nx = = 1", "policy.lua:2: unexpected symbol near '='"),
        ("\nerror('oops')", "policy.lua:2: oops"),
        ("\nwhile true do end", "policy.lua:2: ran out of its 2000000 instructions; is there a loop without end?"),
        ("\nkumo.define_spool{}", "policy.lua:2: kumo.define_spool: call it inside of the init event's handler"),
        ("\nkumo.start_esmtp_listener{}", "policy.lua:2: kumo.start_esmtp_listener: call it inside of the init event's handler"),
        ("kumo.on('init', function()\nerror 'no' end)", "event init: policy.lua:2: no"),
        ("kumo.on('init', function()\nkumo.start_http_listener{listen='127.0.0.1:1'} kumo.start_esmtp_listener{listen='127.0.0.1:1'} end)",
            "event init: policy.lua:2: kumo.start_esmtp_listener: there already is a listener on 127.0.0.1:1"),
        ("kumo.on('init', function()\nfor i = 1, 2 do kumo.define_spool{name='data', path='/x'} end end)",
            "event init: policy.lua:2: kumo.define_spool: there already is a spool named \"data\""),
        ("kumo.on('init', function()\nfor i = 1, 2 do kumo.configure_local_logs{log_dir='/x'} end end)",
            "event init: policy.lua:2: kumo.configure_local_logs: it was called before; logs are configured once"),
        ("kumo.on('init', function() kumo.reject(500, 'x') end)",
            "event init: kumo.reject and kumo.disconnect mean nothing here (500 x)"),
        ("\nos.exit(1)", "policy.lua:2: attempt to call a nil value (field 'exit')"),
        ("\nkumo.dkim.sign()", "policy.lua:2: this version has no kumo.dkim"),
        ("\nkumo.on('init')", "policy.lua:2: argument 2: expected a function, got nil"),
    ] {
        assert_eq!(load_error(source).await, expected, "{source}");
    }
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let Err(error) = LuaPolicy::load("/nowhere/policy.lua".as_ref(), OPTIONS).await else {
        panic!("there is no such file")
    };
    assert!(error.to_string().contains("can't read /nowhere/policy.lua"), "{error}");
}

#[tokio::test]
async fn warnings_are_said_once_with_their_place() {
    let source = "
    kumo.on('smtp_server_mail_form', print)
    kumo.on('rebind_message', print)
    kumo.on('init', print)
    kumo.on('init', function() for i = 1, 3 do kumo.set_smtpsrv_threads(i) end end)";
    let warnings = try_load(source).await.unwrap().warnings;
    let shown: Vec<String> = warnings.iter().map(|warning| short(warning)).collect();
    assert_eq!(shown.len(), 4, "{shown:?}");
    for expected in [
        "policy.lua:2: kumo.on: this version never calls \"smtp_server_mail_form\" (did you mean `smtp_server_mail_from`?)",
        "policy.lua:3: kumo.on: this version never calls \"rebind_message\"",
        "policy.lua:5: kumo.set_smtpsrv_threads is accepted and has no effect",
    ] {
        assert!(shown.iter().any(|warning| warning == expected), "{expected}: {shown:?}");
    }
    assert!(shown.iter().any(|warning| warning.contains("this handler of init replaces the one")));
}

#[tokio::test]
async fn a_key_without_effect_is_a_warning_once_for_its_place() {
    let source = "kumo.on('get_queue_config', function()
        return kumo.make_queue_config { strategy = 'TimerWheel' }
    end)";
    let policy = load(source).await;
    for _ in 0..3 {
        let question = kumo_core::engine::Question::QueueConfig { queue: "d.test".into() };
        let asked = kumo_driver::policy::EngineQuestion { question, message: None, response: None };
        assert!(matches!(policy.engine(asked).await.answer, kumo_core::engine::Answer::QueueConfig(_)));
    }
    let warnings = policy.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(short(&warnings[0]).starts_with("policy.lua:2: kumo.make_queue_config: "), "{warnings:?}");
    assert!(warnings[0].contains("strategy"), "{warnings:?}");
}

#[tokio::test]
async fn required_files_are_read_once_and_named_in_errors() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("policy.lua", "local kumo = require 'kumo'\nlocal helper = require 'lib.helper'\nkumo.on('smtp_server_mail_from', helper)");
    std::fs::create_dir(folder.path().join("lib")).unwrap();
    write("lib/helper.lua", "#! comment\nreturn function(from, meta) meta:set_meta('v', 1)\nif from.user == 'x' then error 'in the helper' end end");
    let loaded = LuaPolicy::load(&folder.path().join("policy.lua"), OPTIONS).await.unwrap();
    write("lib/helper.lua", "this is broken now");
    let ask = async |text: &str| {
        ask(&loaded.policy, Asked::MailFrom { sender: ReversePath::parse(text).unwrap() }).await
    };
    assert_eq!(ask("").await.meta["v"], 1);
    let Verdict::Failed(text) = ask("x@y.test").await.verdict else { panic!("no failure") };
    assert!(text.contains("lib/helper.lua:3: in the helper"), "{text}");
}

#[tokio::test]
async fn what_cannot_be_required_says_where_it_was_looked_for() {
    let error = load_error("\nrequire 'no.such'").await;
    assert!(error.starts_with("policy.lua:2: module 'no.such' not found:"), "{error}");
    assert!(error.contains("no/such.lua'"), "{error}");
    let error = load_error("\nrequire 'socket.core'").await;
    assert!(!error.contains(".so"), "C modules aren't even looked for: {error}");
}

#[tokio::test]
async fn the_library_cannot_do_harm() {
    for source in [
        "assert(os.exit == nil and os.execute == nil and io.popen == nil)",
        "assert(package.loadlib == nil and #package.searchers == 2)",
        "assert(debug.sethook == nil and require('debug').sethook == nil and debug.getregistry == nil)",
        "local f = load(string.dump(function() end)) assert(f == nil)",
        "local ok = pcall(load, 'return 1', 'x', 'b') assert(not ok)",
        "assert(load('return ...', 'x')(5) == 5)",
        "local e = {} assert(load('y = 1', 'x', 't', e)) load('y = 1', 'x', 't', e)() assert(e.y == 1 and y == nil)",
        "collectgarbage('stop') assert(collectgarbage('count') > 0)",
        "assert(('ab'):rep(3, '-') == 'ab-ab-ab' and (''):rep(5) == '')",
        "local t = setmetatable({}, {__index = {x = 1}}) assert(t.x == 1)",
        "local ok, why = pcall(error, 'x', 0) assert(why == 'x')",
        "local ok, why = pcall(error, {code = 7}) assert(why.code == 7)",
        "local a, b = assert(1, 2) assert(a == 1 and b == 2)",
        "assert(debug.traceback('x'):find('stack traceback'))",
        "assert(kumo.version:find('kumod'))",
    ] {
        if let Err(error) = try_load(source).await {
            panic!("{source}: {error}");
        }
    }
}

async fn validated(source: &str) -> Result<Report, PolicyError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.lua");
    std::fs::write(&path, format!("local kumo = require 'kumo' {source}")).unwrap();
    validate(&path, OPTIONS).await
}

#[tokio::test]
async fn validate_reports_what_it_found() {
    let source = "kumo.on('init', function() kumo.start_http_listener {} end)
    kumo.on('validate_config', function() if broken then kumo.validation_failed() end end)";
    let report = validated(source).await.unwrap();
    assert_eq!(report.events, ["init", "validate_config"]);
    assert_eq!(report.setup.http_listeners.len(), 1);
    assert!(!report.failed);
    let report = validated(&format!("broken = true {source}")).await.unwrap();
    assert!(report.failed);
    let error = validated("kumo.on('validate_config', function() error 'bad' end)").await;
    assert_eq!(text(error.unwrap_err()), "event validate_config: policy.lua:1: bad");
}

#[tokio::test]
async fn a_script_gets_its_arguments_and_more_time() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.json");
    let path = folder.path().join("policy.lua");
    let source = "local kumo = require 'kumo'
    kumo.on('main', function(path, ...)
        for i = 1, 5000000 do end
        local file = io.open(path, 'w')
        file:write(kumo.serde.json_encode { ... })
        file:close()
    end)";
    std::fs::write(&path, source).unwrap();
    let arguments = [output.display().to_string(), "a".into(), "b c".into()];
    script(&path, &arguments, OPTIONS).await.unwrap();
    assert_eq!(std::fs::read_to_string(&output).unwrap(), r#"["a","b c"]"#);
    std::fs::write(&path, "").unwrap();
    let error = script(&path, &[], OPTIONS).await.unwrap_err();
    assert!(error.to_string().contains("kumo.on('main'"), "{error}");
}

#[tokio::test]
async fn a_script_may_run_another_policy() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.lua");
    std::fs::write(&policy, "require('kumo').on('get_queue_config', function() end) return 5").unwrap();
    let path = folder.path().join("script.lua");
    let source = format!("assert(dofile('{}') == 5) require('kumo').on('main', function() end)", policy.display());
    std::fs::write(&path, source).unwrap();
    script(&path, &[], OPTIONS).await.unwrap();
    std::fs::write(&policy, "x = = 1").unwrap();
    let error = script(&path, &[], OPTIONS).await.unwrap_err();
    assert!(text(error).contains("policy.lua:1: unexpected symbol"));
}
