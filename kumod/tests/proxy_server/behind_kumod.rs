//! Mail of a kumod whose source leads through proxy-server, also while the proxy is killed, paused and started again.
use super::process::ProxyServer;
use super::support::ask::source;
use super::support::{Client, Home, Kumod, PATIENCE, Sink, Sunk, send_numbered, wait_for};
use super::{AUTH, POLICY_HTTP};
use std::net::SocketAddr;

/// The whole way of a message: kumod chooses the source, the proxy connects from it.
#[test]
fn kumods_mail_leaves_from_the_proxys_address() {
    let init = format!(
        "proxy.start_proxy_listener {{ listen = '127.0.0.1:0', require_auth = true }} {POLICY_HTTP}"
    );
    let proxy = ProxyServer::with_policy(&init, AUTH);
    let (home, sink) = (Home::new(), Sink::start(()));
    let handlers = format!(
        "kumo.on('get_egress_source', function(name)
           return kumo.make_egress_source {{
             name = name, socks5_proxy_server = '{proxy}', socks5_proxy_source_address = '127.0.0.2',
             socks5_proxy_username = 'joe', socks5_proxy_password = {{ key_data = 'sesame' }},
           }}
         end)
         kumo.on('get_egress_pool', function(name)
           return kumo.make_egress_pool {{ name = name, entries = {{ {{ name = 'far' }} }} }}
         end)
         kumo.on('get_queue_config', function()
           return kumo.make_queue_config {{
             egress_pool = 'pool', protocol = {{ smtp = {{ mx_list = {{ '{mx}' }} }} }},
           }}
         end)
         kumo.on('get_egress_path_config', function()
           return kumo.make_egress_path {{ prohibited_hosts = {{}}, enable_tls = 'Disabled' }}
         end)",
        proxy = proxy.address(),
        mx = sink.as_mx()
    );
    let kumod = Kumod::start(&home.policy("", &handlers));
    let mut client = Client::greet(kumod.address()).unwrap();
    let reply = client.send("ann@client.example", &["bob@sink.example"], "Subject: x\r\n\r\nx\r\n");
    assert_eq!(reply.unwrap().code, 250);
    let delivered = wait_for("the delivery's record", PATIENCE, || {
        home.records_of("Delivery").into_iter().next()
    });
    let source = &delivered["source_address"];
    assert!(source["address"].as_str().is_some_and(|at| at.starts_with("127.0.0.2:")), "{source}");
    assert_eq!(source["protocol"], "socks5");
    assert_eq!(source["server"], proxy.address().to_string());
    assert_eq!(sink.sunk().len(), 1);
    let sink_ip = format!("destination=\"{}\"", sink.address().ip());
    assert_eq!(proxy.metric("proxy_outbound_connections_total", &[&sink_ip]), 1);
    kumod.stop();
    proxy.stop();
}

fn policy(home: &Home, sink: &Sink, proxy: SocketAddr) -> std::path::PathBuf {
    let handlers = format!(
        "kumo.on('get_egress_source', function(name)
           if name == 'direct' then
             return kumo.make_egress_source {{ name = name, ehlo_domain = 'direct.example' }}
           end
           return kumo.make_egress_source {{
             name = name, ehlo_domain = 'proxied.example', socks5_proxy_server = '{proxy}',
             socks5_proxy_source_address = '127.0.56.1',
             suspend_when_proxy_unhealthy = {{ duration = '3s' }},
           }}
         end)
         kumo.on('get_egress_pool', function(name)
           return kumo.make_egress_pool {{ name = name, entries = {{ {{ name = 'direct' }}, {{ name = 'proxied' }} }} }}
         end)
         kumo.on('get_queue_config', function()
           return kumo.make_queue_config {{
             egress_pool = 'pool', protocol = {{ smtp = {{ mx_list = {{ '{mx}' }} }} }},
             retry_interval = '1s', max_retry_interval = '1s',
           }}
         end)
         kumo.on('get_egress_path_config', function()
           return kumo.make_egress_path {{
             prohibited_hosts = {{}}, connect_timeout = '1s', idle_timeout = '1s', enable_tls = 'Disabled',
             max_deliveries_per_connection = 1,
           }}
         end)",
        mx = sink.as_mx()
    );
    home.policy_with_http(("spool", "spool"), "min_free_inodes = 0", &handlers)
}

/// How often each greeting brought one of these messages, once all have arrived; none twice.
fn arrivals(sink: &Sink, numbers: std::ops::Range<usize>) -> (usize, usize) {
    let subjects: Vec<String> = numbers.map(|number| number.to_string()).collect();
    let of = |sunk: &[Sunk], greeting: &str| {
        let subject =
            |one: &Sunk| one.header("Subject").filter(|subject| subjects.contains(subject));
        sunk.iter()
            .filter(|one| one.is_taken() && one.greeting == greeting && subject(one).is_some())
            .count()
    };
    wait_for("all to arrive", PATIENCE, || {
        let counts =
            sink.with_sunk(|sunk| (of(sunk, "direct.example"), of(sunk, "proxied.example")));
        (counts.0 + counts.1 >= subjects.len()).then_some(counts)
    })
}

#[test]
fn mail_leaves_by_the_healthy_source_while_the_proxy_is_killed_stopped_and_started_again() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let mut proxy = ProxyServer::start(&["--listen", "127.0.0.1:0"]);
    let address = proxy.address();
    let kumod = Kumod::start(&policy(&home, &sink, address));
    let reason = || source(&kumod, "proxied")["suspension"]["reason"].as_str().map(String::from);
    let until_well =
        || wait_for("the suspension to end", PATIENCE, || reason().is_none().then_some(()));
    send_numbered(kumod.address(), 0..20);
    let (direct, proxied) = arrivals(&sink, 0..20);
    assert_eq!(direct + proxied, 20);
    assert!(proxied >= 9, "{proxied}");

    // Killed: refused at once.
    proxy.signal(libc::SIGKILL);
    proxy.wait(PATIENCE);
    send_numbered(kumod.address(), 20..30);
    assert_eq!(arrivals(&sink, 20..30), (10, 0));
    assert_eq!(reason().as_deref(), Some("ProxyUnhealthy"));

    proxy = ProxyServer::start(&["--listen", &address.to_string()]);
    until_well();
    send_numbered(kumod.address(), 30..50);
    let (direct, proxied) = arrivals(&sink, 30..50);
    assert_eq!(direct + proxied, 20);
    assert!(proxied >= 8, "{proxied}");

    // Paused: it takes connections and says nothing (D19).
    proxy.signal(libc::SIGSTOP);
    send_numbered(kumod.address(), 50..60);
    assert_eq!(arrivals(&sink, 50..60), (10, 0));
    assert_eq!(reason().as_deref(), Some("ProxyUnhealthy"));
    proxy.signal(libc::SIGCONT);
    until_well();
    send_numbered(kumod.address(), 60..80);
    let (direct, proxied) = arrivals(&sink, 60..80);
    assert_eq!(direct + proxied, 20);
    assert!(proxied >= 8, "{proxied}");
    assert_eq!(home.records_of("Bounce"), Vec::<serde_json::Value>::new());
    kumod.stop();
}
