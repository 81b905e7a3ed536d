//! The request as filters see it.

use std::future::poll_fn;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::super::Downstream;
use super::super::head::Head;
use super::super::wire::{Outgoing, poll_read_with};
use super::REPLAY;
use super::ask::{Ask, Left};
use crate::filter::{Error, Field, Fields, InvalidField, Party, RequestHead};

/// A request, as the filters of its phase see it: its body is still to come.
pub(super) struct Asking<'a, D> {
    pub(super) head: &'a mut Head,
    pub(super) client: &'a mut D,
    pub(super) ask: &'a mut Ask,
    pub(super) received: &'a mut u64,
}

impl<D: Downstream> Asking<'_, D> {
    /// Reads the whole body, and keeps it for endpoints.
    async fn whole_body(&mut self, max: usize) -> Result<Bytes, Error> {
        let max = max.min(REPLAY);
        let too_large = || Error::body_too_large(max);
        if let Some(Left::Length(left)) = self.ask.left
            && left > max as u64
        {
            self.ask.refused = true;
            return Err(too_large());
        }
        while self.ask.left.is_some() {
            let Self { client, ask, received, .. } = self;
            let read = poll_fn(|cx| {
                poll_read_with(&mut **client, cx, |bytes, _| {
                    let length = ask.take(bytes);
                    (bytes.is_empty() && ask.left.is_some(), length)
                })
            })
            .await;
            // It is sent from where it is kept.
            ask.out = Outgoing::default();
            match read {
                Ok((false, length)) => **received += length as u64,
                Ok((true, _)) => return Err(Error::new(400, Party::Client, "body_broken")),
                Err(error) => return Err(Error::new(400, Party::Client, "body_broken").with_message(error.to_string())),
            }
            if ask.replay.as_ref().is_none_or(|body| body.len() > max) {
                ask.refused = true;
                return Err(too_large());
            }
        }
        Ok(self.ask.replay.as_ref().map_or_else(Bytes::new, |body| Bytes::copy_from_slice(body)))
    }
}

impl<D: Send + Sync> Fields for Asking<'_, D> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.head.get(name)
    }
    fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        self.head.each(visit);
    }
    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        self.head.set(name, value)
    }
    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        self.head.add(name, value)
    }
    fn remove(&mut self, name: &str) -> bool {
        self.head.remove(name)
    }
    fn set_field(&mut self, field: &Field) {
        self.head.set_field(field);
    }
    fn add_field(&mut self, field: &Field) {
        self.head.add_field(field);
    }
}

impl<D: Downstream> RequestHead for Asking<'_, D> {
    fn method(&self) -> &str {
        self.head.method()
    }
    fn path(&self) -> &str {
        self.head.path()
    }
    fn query(&self) -> Option<&str> {
        self.head.query()
    }
    fn set_target(&mut self, path: &str, query: Option<&str>) -> Result<(), InvalidField> {
        self.head.set_target(path, query)
    }
    fn set_host(&mut self, host: &str) -> Result<(), InvalidField> {
        self.head.set_host(host)
    }
    fn buffer_body(&mut self, max: usize) -> BoxFuture<'_, Result<Bytes, Error>> {
        Box::pin(self.whole_body(max))
    }
}
