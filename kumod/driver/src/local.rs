//! Deliveries that need no network: into a maildir, and into nothing. A session of this kind is ready at once and ends when
//! it is told to or has had nothing to do. Invariant: as for any session; a message is delivered once its file is synced.
use crate::client::{Command, Delivery, End, Link, connection_of};
use crate::world::World;
use kumo_core::address::Mailbox;
use kumo_core::config::queue::DeliveryProtocol;
use kumo_core::dispatcher::Phase;
use kumo_core::header;
use kumo_core::id::{OpId, SpoolId};
use kumo_core::message::Message;
use kumo_core::port::{Files, MaildirDelivery};
use kumo_core::queue_name::{self, QueueName};
use kumo_core::recipients::RecipientSet;
use kumo_core::smtp::client::Fate;
use kumo_core::smtp::reply::Reply;
use kumo_core::time::Duration;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// To write and sync one file. Shorter than the watchdog's patience, since what it cuts off is tried again at once.
const WRITE: Duration = Duration::from_secs(50);

pub(crate) async fn run<W: World>(link: &Link<W>, commands: &mut mpsc::Receiver<Command>) -> End {
    let connection = Arc::new(connection_of(link, None, None, None));
    link.activity.connected(&connection);
    link.ready().await;
    loop {
        match timeout(link.target.path.idle_timeout, commands.recv()).await {
            Ok(Some(Command::Deliver { op, message, recipients })) => {
                let Some((delivery, fates)) = deliver(link, op, message, recipients).await else {
                    continue;
                };
                link.attempted(delivery, fates, &connection, true).await;
                link.ready().await;
            }
            Ok(Some(Command::DeliverBatch { .. })) => {
                unreachable!("batches are for policy's senders")
            }
            Ok(Some(Command::Close) | None) | Err(_) => return End::done(),
        }
    }
}

/// `None` if the message couldn't be read, which has been told, or isn't this session's any more.
async fn deliver<W: World>(
    link: &Link<W>,
    op: OpId,
    id: SpoolId,
    recipients: RecipientSet,
) -> Option<(Delivery, Vec<(u32, Fate)>)> {
    link.begin(op);
    link.enter(Phase::DeliveringMessage, None);
    let message = match link.shared.load(id).await {
        Ok(message) => message,
        Err(error) => {
            link.not_loaded(op, id, &error).await;
            return None;
        }
    };
    if link.shared.health.suspends_delivery() {
        link.not_now(op).await;
        return None;
    }
    if !link.body_begins() {
        return None;
    }
    link.activity.touch(link.shared.now().mono);
    let mut fates = Vec::new();
    for index in recipients.iter() {
        if let Some(recipient) = message.envelope.recipients.get(index as usize) {
            fates.push((index, deliver_to(link, &message, index, recipient).await));
            link.activity.touch(link.shared.now().mono);
        }
    }
    Some((Delivery { op, message }, fates))
}

async fn deliver_to<W: World>(
    link: &Link<W>,
    message: &Message,
    index: u32,
    recipient: &Mailbox,
) -> Fate {
    let DeliveryProtocol::Maildir { path, dir_mode, file_mode } = &*link.target.protocol else {
        return Fate::Delivered(Reply::new(250, "discarded"));
    };
    let directory = match expand(path, message, recipient) {
        Ok(directory) => directory,
        Err(why) => return Fate::Deferred(Reply::new(400, &format!("KumoMTA internal: {why}"))),
    };
    let sender = format!("<{}>", message.envelope.sender.as_str());
    let content = header::prepend(&message.body, "Return-Path", &sender)
        .expect("Return-Path is a field's name");
    let delivery = MaildirDelivery {
        directory,
        name: format!("{}.R{index}", message.id),
        dir_mode: *dir_mode,
        file_mode: *file_mode,
        content,
    };
    match timeout(WRITE, link.shared.world.files().deliver_to_maildir(delivery)).await {
        Ok(Ok(id)) => {
            let text = format!("{}: wrote to maildir with id={id}", recipient.as_str());
            Fate::Delivered(Reply::new(200, &text))
        }
        Ok(Err(why)) => Fate::Deferred(Reply::new(400, &format!("KumoMTA internal: {why}"))),
        // It may still come about.
        Err(_) => Fate::Unknown,
    }
}

/// Fills in `{{ domain_part }}` and the like. A value never leads out of the folder it stands for.
fn expand(template: &str, message: &Message, recipient: &Mailbox) -> Result<String, String> {
    let queue = queue_name::of_message(message);
    let name = QueueName::parse(&queue);
    let sender = message.envelope.sender.as_str();
    let (sender_local, sender_domain) = sender.rsplit_once('@').unwrap_or((sender, ""));
    let value = |variable: &str| -> Option<String> {
        Some(match variable {
            "queue" => queue.clone(),
            "campaign" => name.campaign.unwrap_or("").into(),
            "tenant" => name.tenant.unwrap_or("").into(),
            "domain" => name.domain.into(),
            "routing_domain" => name.routing_domain.unwrap_or("").into(),
            "local_part" => recipient.local_part().into(),
            "domain_part" => recipient.domain().into(),
            "email" => recipient.as_str().into(),
            "sender_email" => sender.into(),
            "sender_local_part" => sender_local.into(),
            "sender_domain_part" => sender_domain.into(),
            other => {
                let meta = message.meta.get(other.strip_prefix("meta.")?)?;
                meta.as_str().map_or_else(|| meta.to_string(), Into::into)
            }
        })
    };
    let mut expanded = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (variable, after) = after
            .split_once("}}")
            .ok_or_else(|| format!("maildir_path {template:?} has {{{{ without }}}}"))?;
        let variable = variable.trim();
        let value = value(variable).ok_or_else(|| {
            format!("maildir_path {template:?} names {variable:?}, which isn't known")
        })?;
        expanded.push_str(before);
        expanded.push_str(&harmless(&value));
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// As one folder's name: addresses come from strangers.
fn harmless(value: &str) -> String {
    let clean: String =
        value.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
    if clean.chars().all(|c| c == '.') { "_".repeat(clean.len().max(1)) } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::message_to;

    #[test]
    fn a_template_is_filled_in_and_never_leads_astray() {
        let message = message_to("joe@example.com");
        let recipient = &message.envelope.recipients[0];
        let expand = |template: &str| super::expand(template, &message, recipient);
        assert_eq!(
            expand("/var/mail/{{ domain_part }}/{{local_part}}").unwrap(),
            "/var/mail/example.com/joe"
        );
        assert!(expand("/x/{{ nonsense }}").unwrap_err().contains("nonsense"));
        assert!(expand("/x/{{ email").unwrap_err().contains("without"));
        assert_eq!(harmless("../../etc"), ".._.._etc");
        assert_eq!(harmless(".."), "__");
    }
}
