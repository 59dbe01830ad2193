//! What a server session can be told and what it can want. The session's decisions stand beside this file.
//! Invariant: at most one of `Ask`, `StartTls` and `Submit` is outstanding; each is completed by its own input.
use crate::address::{Mailbox, ReversePath};
use crate::commit::Accountable;
use crate::config::ListenerDomain;
use crate::message::{Message, Meta};
use crate::port::TlsInfo;
use crate::smtp::reply::Reply;
use crate::time::Mono;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

#[derive(Debug)]
pub enum Input<'a> {
    /// The connection stands. `refusal`: what keeps us from serving it (`421 4.3.2 H …`), sent instead of a banner.
    Opened {
        refusal: Option<Reply>,
    },
    Bytes(&'a [u8]),
    /// The client closed, or the connection broke.
    Ended,
    /// Completes [`Output::Ask`].
    Answer(Answer),
    /// Completes [`Output::StartTls`]; `None`: the handshake failed.
    TlsDone(Option<TlsInfo>),
    /// Completes [`Output::Submit`].
    Submitted(Submitted),
    Tick,
    /// Graceful stop: 421 now, or when the transaction already handed over has been answered.
    Stop,
}

#[derive(Debug)]
pub enum Output {
    Send(Bytes),
    Ask(Question),
    /// Everything sent before has to be on the wire first.
    StartTls,
    /// Make these durable by then; the client waits for the answer to its final dot.
    Submit {
        messages: Vec<Message>,
        /// `data_processing_timeout` after it.
        deadline: Mono,
    },
    /// For a Rejection record. `421 4.3.2 …` never gets here.
    Rejected(Rejection),
    /// Flush what was sent, then close. The last output.
    Close,
}

/// Policy events with no handler are never asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handled {
    pub connection_accepted: bool,
    pub ehlo: bool,
    pub auth_plain: bool,
    pub mail_from: bool,
    pub rcpt_to: bool,
    pub listener_domain: bool,
    pub data: bool,
    pub message_received: bool,
}

/// `meta` is the connection's metadata: lent to policy and given back, perhaps changed, with the answer.
#[derive(Debug)]
pub struct Question {
    pub meta: Meta,
    pub what: Asked,
}

#[derive(Debug)]
pub enum Asked {
    ConnectionAccepted,
    Ehlo {
        domain: String,
        extensions: Vec<String>,
    },
    AuthPlain {
        authz: String,
        authc: String,
        password: String,
    },
    MailFrom {
        sender: ReversePath,
    },
    ListenerDomain {
        domain: String,
        listener: String,
    },
    RcptTo {
        recipient: Mailbox,
    },
    /// The whole transaction, every recipient, before trace headers.
    Data {
        message: Message,
    },
    /// One message of the batch, after the Received field was added.
    MessageReceived {
        message: Message,
    },
}

#[derive(Debug)]
pub struct Answer {
    pub meta: Meta,
    pub verdict: Verdict,
}

#[derive(Debug)]
pub enum Verdict {
    /// No handler, or one that returned nothing.
    Proceed,
    /// `smtp_server_ehlo` returned a list.
    Extensions(Vec<String>),
    Authenticated(bool),
    ListenerDomain(Option<ListenerDomain>),
    Message(Message),
    /// `kumo.reject`.
    Reject(Reply),
    /// `kumo.disconnect`.
    Disconnect {
        reply: Reply,
        how: Disconnect,
    },
    /// An error in policy: `421 4.3.0 H technical difficulties`; the text goes into the Rejection record.
    Failed(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// Close only if the code is 421.
    If421,
    ForceDisconnect,
    FollowWith421,
}

#[derive(Debug)]
pub enum Submitted {
    Accepted(Accountable),
    /// The client gets this instead of 250; none of the messages will be delivered.
    Refused(Reply),
}

#[derive(Clone, Debug)]
pub struct Rejection {
    pub sender: ReversePath,
    pub recipients: Vec<Mailbox>,
    pub reply: Reply,
    pub meta: Meta,
    pub size: u64,
}
