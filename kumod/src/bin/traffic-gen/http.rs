//! Sends over HTTP injection: one task a connection, one request after the other on it.
use super::arguments::Arguments;
use super::mail::{SENDER, Template};
use super::run::Run;
use hyper::Method;
use kumo_core::random::Random;
use kumod::http::api::InjectResponse;
use kumod::http::client::{Answer, Client, ClientError, Endpoint};
use serde_json::json;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinSet;

const PATH: &str = "/api/inject/v1";

pub fn start(
    arguments: &Arguments,
    run: &Arc<Run>,
    senders: &mut JoinSet<()>,
) -> Result<(), String> {
    let template = Template::new(arguments)?;
    let target = arguments.target();
    let url = if target.contains("://") { target.to_owned() } else { format!("http://{target}") };
    let endpoint: Endpoint = url.parse().map_err(|error| format!("--target {target}: {error}"))?;
    for worker in 0..arguments.concurrency {
        let sender = Sender {
            client: Client::new(endpoint.clone(), arguments.timeout),
            template: template.clone(),
            run: run.clone(),
            random: Random::new(u64::from(worker), "recipients"),
        };
        senders.spawn(sender.work(u64::from(arguments.http_batch_size)));
    }
    Ok(())
}

struct Sender {
    client: Client,
    template: Arc<Template>,
    run: Arc<Run>,
    random: Random,
}

impl Sender {
    async fn work(mut self, batch_size: u64) {
        let mut failures_in_a_row = 0;
        while let Some(numbers) = self.run.take(batch_size).await {
            let count = numbers.end - numbers.start;
            let request = self.request(numbers);
            let started = Instant::now();
            match self.client.request(Method::POST, PATH, Some(request.into())).await {
                Ok(answer) => {
                    failures_in_a_row = 0;
                    self.run.connected();
                    self.account(count, &answer, started);
                }
                Err(error @ ClientError::NoAnswer { .. }) => {
                    self.run.connected();
                    self.run.unknown(count, &error.to_string());
                }
                Err(error @ ClientError::Unreachable { .. }) => {
                    failures_in_a_row += 1;
                    self.run.failed(count, &error.to_string());
                    if !self.run.back_off(failures_in_a_row).await {
                        return;
                    }
                }
            }
        }
    }

    fn request(&mut self, numbers: Range<u64>) -> Vec<u8> {
        let first = numbers.start;
        let recipients: Vec<_> = numbers
            .map(|number| json!({"email": self.template.recipient(number, &mut self.random)}))
            .collect();
        let content = self.template.content(first, "undisclosed-recipients:;");
        let request = json!({
            "envelope_sender": SENDER,
            "content": String::from_utf8_lossy(&content),
            "recipients": recipients,
            "template_dialect": "Static",
        });
        serde_json::to_vec(&request).expect("all keys are text")
    }

    fn account(&self, count: u64, answer: &Answer, started: Instant) {
        let response = serde_json::from_slice::<InjectResponse>(&answer.body).ok();
        let accepted = response
            .as_ref()
            .filter(|_| answer.status.is_success())
            .map_or(0, |response| response.success_count.min(count));
        if accepted > 0 {
            self.run.accepted(accepted, started.elapsed());
        }
        if accepted < count {
            let error = response.and_then(|response| response.errors.into_iter().next());
            let why = error.unwrap_or_else(|| answer.text());
            let why: String = why.chars().take(200).collect();
            self.run.failed(count - accepted, &format!("{}: {why}", answer.status));
        }
    }
}
