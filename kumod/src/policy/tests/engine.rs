//! The engine's questions: defaults, arguments, answers.
use super::*;
use kumo_core::config::{EgressPath, QueueConfig};
use kumo_core::engine::{self, InsertReason, RequeueAnswer};
use kumo_core::smtp::reply::Reply;
use kumo_core::time::{Duration, Wall};
use kumo_driver::policy::{EngineAnswer, EngineHandled, EngineQuestion};

async fn ask_engine(policy: &LuaPolicy, question: engine::Question) -> EngineAnswer {
    policy.engine(EngineQuestion { question, message: None, response: None }).await
}

async fn answer(policy: &LuaPolicy, question: engine::Question) -> engine::Answer {
    ask_engine(policy, question).await.answer
}

fn queue(name: &str) -> engine::Question {
    engine::Question::QueueConfig { queue: name.into() }
}

fn pool(name: &str) -> engine::Question {
    engine::Question::Pool { name: name.into() }
}

fn path() -> engine::Question {
    let (domain, source, site) = ("d.test".into(), "s1".into(), "mx.d.test".into());
    engine::Question::EgressPath { domain, source, site }
}

fn failed(answer: engine::Answer) -> String {
    match answer {
        engine::Answer::Failed { why } => short(&why),
        other => panic!("not a failure: {other:?}"),
    }
}

#[tokio::test]
async fn without_handlers_the_defaults_hold() {
    let policy = load("").await;
    let default = engine::Answer::QueueConfig(Box::default());
    assert_eq!(answer(&policy, queue("d.test")).await, default);
    assert_eq!(answer(&policy, path()).await, engine::Answer::EgressPath(Box::default()));
    let engine::Answer::Pool(found) = answer(&policy, pool("unspecified")).await else {
        panic!("the built-in pool is always there")
    };
    assert_eq!(&*found.sources[0].name, "unspecified");
    assert_eq!(found.pool.entries.len(), 1);
    assert_eq!(
        failed(answer(&policy, pool("p")).await),
        "event get_egress_pool: there is no egress pool \"p\"; its handler has to return \
         kumo.make_egress_pool{…}"
    );
    assert_eq!(policy.engine_handled(), EngineHandled::default());
    assert_eq!(policy.idle_states(), 0, "no state was made");
}

#[tokio::test]
async fn queue_config_gets_the_parts_of_the_name_and_asks_handlers_in_order() {
    let source = "
    kumo.on('get_queue_config', function(domain, tenant, campaign, routing)
        if domain ~= 'first.test' then return nil end
        return kumo.make_queue_config { egress_pool = 'first' }
    end)
    kumo.on('get_queue_config', function(domain, tenant, campaign, routing)
        return kumo.make_queue_config {
            egress_pool = table.concat({domain, tenant or '-', campaign or '-', routing or '-'}, ' '),
            max_age = 3600 / 2,
        }
    end)";
    let policy = load(source).await;
    for (name, expected) in [
        ("first.test", "first"),
        ("c:t@d.test!r.test", "d.test t c r.test"),
        ("d.test", "d.test - - -"),
    ] {
        let engine::Answer::QueueConfig(config) = answer(&policy, queue(name)).await else {
            panic!("{name}")
        };
        assert_eq!(config.egress_pool.as_deref(), Some(expected));
        if name != "first.test" {
            assert_eq!(config.max_age, Duration::from_secs(1800));
        }
    }
    let policy = load("kumo.on('get_queue_config', function() end)").await;
    let default = engine::Answer::QueueConfig(Box::<QueueConfig>::default());
    assert_eq!(answer(&policy, queue("d.test")).await, default);
}

#[tokio::test]
async fn a_pool_comes_with_its_sources_in_order() {
    let source = "
    kumo.on('get_egress_pool', function(name)
        if name ~= 'p' then return end
        return kumo.make_egress_pool { name = 'p', entries = {
            { name = 's2', weight = 2 }, { name = 'unused', weight = 0 }, { name = 's1' },
        } }
    end)
    kumo.on('get_egress_source', function(name)
        if name == 'unused' then error 'asked for a source without weight' end
        if name == 's2' or name == 's1' then return kumo.make_egress_source { name = name } end
    end)
    kumo.on('get_egress_path_config', function(domain, source, site)
        return kumo.make_egress_path { ehlo_domain = domain .. '.' .. source .. '.' .. site }
    end)";
    let policy = load(source).await;
    let engine::Answer::Pool(found) = answer(&policy, pool("p")).await else { panic!("no pool") };
    let names: Vec<&str> = found.sources.iter().map(|source| &*source.name).collect();
    assert_eq!(names, ["s2", "s1"]);
    let entries: Vec<&str> = found.pool.entries.iter().map(|entry| &*entry.name).collect();
    assert_eq!(entries, names);
    assert!(failed(answer(&policy, pool("q")).await).contains("there is no egress pool \"q\""));
    let engine::Answer::EgressPath(path) = answer(&policy, path()).await else { panic!("no path") };
    assert_eq!(path.ehlo_domain.as_deref(), Some("d.test.s1.mx.d.test"));
    assert_eq!(path.max_ready, EgressPath::default().max_ready);
}

#[tokio::test]
async fn a_missing_source_fails_the_pool() {
    let source = "kumo.on('get_egress_pool', function(name)
        return kumo.make_egress_pool { name = name, entries = { { name = 'gone' } } }
    end)";
    assert_eq!(
        failed(answer(&load(source).await, pool("p")).await),
        "event get_egress_source: there is no egress source \"gone\"; its handler has to return \
         kumo.make_egress_source{…}"
    );
}

#[tokio::test]
async fn an_unknown_key_names_line_and_nearest_key() {
    let source = "kumo.on('get_queue_config', function()
        return kumo.make_queue_config { max_agee = '1 day' }
    end)";
    let why = failed(answer(&load(source).await, queue("d.test")).await);
    assert!(why.starts_with("event get_queue_config: policy.lua:2: kumo.make_queue_config: "), "{why}");
    assert!(why.contains("max_agee") && why.contains("max_age"), "{why}");
    for (argument, text) in [
        ("5", "expected a table, got the number 5"),
        ("{'a'}", "expected a table with keys, got a list"),
    ] {
        let source = format!(
            "kumo.on('get_queue_config', function() return kumo.make_queue_config({argument}) end)"
        );
        let why = failed(answer(&load(&source).await, queue("d.test")).await);
        assert!(why.ends_with(text), "{why}");
    }
}

#[tokio::test]
async fn what_another_constructor_made_is_refused() {
    let source = "kumo.on('get_queue_config', function() return kumo.make_egress_path {} end)";
    assert_eq!(
        failed(answer(&load(source).await, queue("d.test")).await),
        "event get_queue_config: policy.lua:1: this handler returned the object \
         kumo.make_egress_path{…}; it has to return what kumo.make_queue_config makes, or nil"
    );
}

#[tokio::test]
async fn a_rejection_where_it_means_nothing_is_a_failure() {
    let source = "kumo.on('get_queue_config', function() kumo.reject(500, 'no') end)";
    assert_eq!(
        failed(answer(&load(source).await, queue("d.test")).await),
        "event get_queue_config: kumo.reject and kumo.disconnect mean nothing here (500 no)"
    );
}

async fn throttle(source: &str) -> EngineAnswer {
    let policy = load(source).await;
    let message = message("");
    let question = engine::Question::ThrottleInsert { message: message.id };
    policy.engine(EngineQuestion { question, message: Some(message), response: None }).await
}

#[tokio::test]
async fn throttling_answers_with_the_due_time_that_was_set() {
    let on = |body: &str| format!("kumo.on('throttle_insert_ready_queue', function(msg) {body} end)");
    let given = throttle(&on("msg:set_due(1700000000)")).await;
    let until = Some(Wall::from_unix_seconds(1_700_000_000));
    assert_eq!(given.answer, engine::Answer::ThrottleInsert { until });
    assert_eq!(given.message.unwrap().schedule.due, until);
    let given = throttle(&on("")).await;
    assert_eq!(given.answer, engine::Answer::ThrottleInsert { until: None });
    assert!(given.message.is_none(), "nothing was changed");
    let given = throttle(&on("msg:set_recipient 'x@y.test'")).await;
    assert!(failed(given.answer).contains("set_recipient: the recipients of a message that is"));
}

async fn requeue(source: &str) -> EngineAnswer {
    let policy = load(source).await;
    let message = message("");
    let question = engine::Question::Requeue {
        message: message.id,
        attempt: None,
        reasons: vec![InsertReason::LoggedTransientFailure, InsertReason::MessageRateThrottle],
        increment_attempts: true,
        delay: Some(Duration::from_secs(90)),
    };
    let response = Some(Reply::new(451, "4.4.1 KumoMTA internal: no\nanswer"));
    policy.engine(EngineQuestion { question, message: Some(message), response }).await
}

#[tokio::test]
async fn requeueing_gets_its_arguments_and_may_move_delay_or_bounce() {
    let on = |body: &str| {
        format!("kumo.on('requeue_message', function(msg, response, context, increment, delay) {body} end)")
    };
    let check = on("assert(response == '451 4.4.1 KumoMTA internal: no answer', response) \
        assert(context[1] == 'LoggedTransientFailure' and context[2] == 'MessageRateThrottle') \
        assert(increment == true and delay == 90 and msg:num_attempts() == 3)");
    let keep = requeue(&check).await;
    assert_eq!(keep.answer, engine::Answer::Requeue(RequeueAnswer::Keep));
    assert!(keep.message.is_none());
    for (body, expected) in [
        ("msg:set_meta('queue', 'smart.host')", RequeueAnswer::Move { queue: "smart.host".into() }),
        ("msg:set_meta('tenant', 't')", RequeueAnswer::Move { queue: "t@one.test".into() }),
        ("msg:set_due(1700000000)", RequeueAnswer::Due(Wall::from_unix_seconds(1_700_000_000))),
        ("msg:set_due(nil)", RequeueAnswer::Due(Wall(0))),
        ("msg:set_scheduling(nil)", RequeueAnswer::Keep),
        ("kumo.reject(400, '4.0.0 enough')", {
            RequeueAnswer::Reject(Reply::new(400, "4.0.0 enough").reply_code())
        }),
    ] {
        let given = requeue(&on(body)).await;
        assert_eq!(given.answer, engine::Answer::Requeue(expected), "{body}");
    }
}

#[tokio::test]
async fn handlers_are_called_until_one_returns_explicitly() {
    let source = "
    kumo.on('requeue_message', function(msg) msg:set_meta('x_first', true) end)
    kumo.on('requeue_message', function(msg) msg:set_meta('x_second', true) return nil end)
    kumo.on('requeue_message', function(msg) msg:set_meta('x_third', true) end)";
    let given = requeue(source).await;
    let meta = given.message.unwrap().meta;
    let names: Vec<&String> = meta.keys().collect();
    assert_eq!(names, ["x_first", "x_second"]);
}

#[tokio::test]
async fn a_message_that_is_missing_is_a_failure() {
    let policy = load("kumo.on('throttle_insert_ready_queue', function(msg) end)").await;
    assert!(policy.engine_handled().throttle_insert);
    let question = engine::Question::ThrottleInsert { message: SpoolId([1; 16]) };
    assert!(failed(answer(&policy, question).await).contains("it couldn't be read"));
}
