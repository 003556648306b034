//! Is the port that natgate chose a legal one? If it chose none, was there none?

use std::net::Ipv4Addr;

use conntrack::{Endpoint, FlowKey, Pooling, Protocol, Refusal};

use crate::nat::{Rate, Seen, Session, Sharing, must_refuse};
use crate::ports::{Block, Ports, REMEMBERED, Wish, region};

impl Ports {
    /// Judges the port that natgate chose, or that it chose none. The session that was ended for it.
    pub fn judge(
        &mut self,
        wish: &Wish,
        sessions: &[Session],
        reasons: &[Refusal],
        rate: Rate,
        seen: Seen,
        now: u64,
    ) -> Result<Option<usize>, String> {
        let mut reasons = reasons.to_vec();
        reasons.extend((rate == Rate::Exceeded).then_some(Refusal::QuotaRate));
        if !reasons.is_empty() || (rate != Rate::Kept && seen == Err(Refusal::QuotaRate)) {
            reasons.extend(wish.full.then_some(Refusal::TableFull));
            return must_refuse(seen, &reasons, rate != Rate::Kept).map(|()| None);
        }
        if let Protocol::Other(_) = wish.key.protocol {
            return self.judge_portless(wish, sessions, seen, now).map(|()| None);
        }
        let owed = self.reach(wish.key, now, true).into_iter().any(|block| {
            let last = block.first + (block.size - 1);
            (block.first..=last).any(|port| self.fits(wish, (block, port), sessions, true, now))
        });
        let closed = self.recyclable(wish, sessions);
        match seen {
            Ok(public) => self.judge_port(wish, sessions, public, (owed, &closed), now),
            Err(why) => {
                self.judge_refusal(wish, sessions, why, owed || !closed.is_empty(), now)?;
                Ok(None)
            }
        }
    }

    /// Sessions that are over and whose tuple would do (6888-REQ-8a, D3).
    fn recyclable(&self, wish: &Wish, sessions: &[Session]) -> Vec<usize> {
        let pod = wish.key.src.addr;
        let over = |s: &Session| {
            let tcp = wish.key.protocol == Protocol::Tcp && s.protocol == Protocol::Tcp;
            let own = s.internal.addr == pod && s.remote == wish.key.dst;
            let same = |o: &&Session| o.protocol == s.protocol && o.public == s.public;
            let alone = wish.sharing == Sharing::ByEndpoint
                || sessions.iter().filter(same).filter(|o| o.made_for == s.made_for).count() == 1;
            let block = self.blocks.iter().find(|b| b.has(s.public));
            let kind = block.is_some_and(|b| self.right_kind(wish.key, b, s.public.port));
            tcp && own
                && alone
                && kind
                && wish.sharing != Sharing::Nobody
                && s.tcp.is_some_and(|tcp| tcp.over())
        };
        (0..sessions.len()).filter(|&i| over(&sessions[i])).collect()
    }

    fn judge_port(
        &self,
        wish: &Wish,
        sessions: &[Session],
        public: Endpoint,
        (owed, closed): (bool, &[usize]),
        now: u64,
    ) -> Result<Option<usize>, String> {
        let pod = wish.key.src.addr;
        if let Some(&index) = closed.iter().find(|&&i| sessions[i].public == public) {
            let oldest = closed.iter().map(|&i| sessions[i].last_seen()).min();
            return if owed && !wish.full {
                Err("took the tuple of a closed connection while others were free".into())
            } else if oldest != Some(sessions[index].last_seen()) {
                Err("took not the oldest closed connection".into())
            } else {
                Ok(Some(index))
            };
        }
        if wish.full {
            return Err("expected a refusal: the table is full".into());
        }
        if self.scattered(wish.key.protocol, wish.key.dst)
            && region(&self.settings).is_some_and(|region| region.contains(&public.port))
        {
            let free = !Self::conflicts(wish, public, sessions)
                && !self.tuples.iter().any(|t| (t.0, t.1) == (public, wish.key.dst));
            return if free { Ok(None) } else { Err("the tuple is used, or rests".into()) };
        }
        let Some(block) = self.reach(wish.key, now, false).into_iter().find(|b| b.has(public))
        else {
            return Err("the port lies in no block that this pod may have".into());
        };
        if !self.fits(wish, (block, public.port), sessions, false, now) {
            return Err("the port is used, rests, is of the wrong kind, or one too many".into());
        }
        // 7857-S4b: another address only if the own one has no block left.
        let anchor = self.pods.get(&pod).and_then(|p| p.anchor.filter(|_| p.idle_since > now));
        let spilled = self.settings.pooling == Pooling::Paired
            && block.holder.is_none()
            && anchor.is_some_and(|anchor| anchor != public.addr);
        let at_home = |b: &&Block| {
            Some(b.address) == anchor && b.low == block.low && self.available(b, pod, now, true)
        };
        if let Some(home) = self.blocks.iter().find(at_home).filter(|_| spilled) {
            return Err(format!("spilled to another address while there was {home:?}"));
        }
        Ok(None)
    }

    fn judge_refusal(
        &mut self,
        wish: &Wish,
        sessions: &[Session],
        why: Refusal,
        owed: bool,
        now: u64,
    ) -> Result<(), String> {
        if wish.full {
            return must_refuse(Err(why), &[Refusal::TableFull], false);
        }
        let key = wish.key;
        let like = |known: &FlowKey| {
            (known.src.addr, known.dst, known.protocol) == (key.src.addr, key.dst, key.protocol)
        };
        let remembered = self.refused.iter().any(|(known, _)| like(known));
        if owed && !remembered {
            return Err("refused though there was a port".into());
        }
        if !remembered {
            self.refused.push((*key, now + REMEMBERED));
        }
        let low = self.settings.low_ports.is_some() && key.src.port < 1024;
        let all = |low| self.held(key.src.addr, low) >= self.settings.quota.blocks as usize;
        let expected = if self.capped(key, sessions) {
            Refusal::QuotaPorts
        } else if all(low && key.protocol != Protocol::Icmp) {
            Refusal::QuotaBlocks
        } else {
            Refusal::PoolExhausted
        };
        if remembered { Ok(()) } else { must_refuse(Err(why), &[expected], false) }
    }

    /// Protocols without ports: one subscriber for each protocol, public address and remote.
    fn judge_portless(
        &self,
        wish: &Wish,
        sessions: &[Session],
        seen: Seen,
        now: u64,
    ) -> Result<(), String> {
        if wish.full {
            return must_refuse(seen, &[Refusal::TableFull], false);
        }
        let pod = self.pods.get(&wish.key.src.addr).copied().unwrap_or_default();
        let linger = self.settings.linger.as_millis() as u64;
        let anchor = pod.anchor.filter(|_| now < pod.idle_since.saturating_add(linger));
        let may: Vec<_> =
            self.addresses.iter().filter(|a| anchor.is_none_or(|anchor| anchor == **a)).collect();
        let clash = |address: Ipv4Addr| {
            sessions.iter().any(|s| {
                s.protocol == wish.key.protocol
                    && s.public.addr == address
                    && s.remote.addr == wish.key.dst.addr
            })
        };
        let legal = match seen {
            Ok(public) => public.port == 0 && may.contains(&&public.addr) && !clash(public.addr),
            Err(Refusal::ProtocolClash) => may.iter().any(|a| clash(**a)),
            Err(_) => false,
        };
        if legal { Ok(()) } else { Err("expected another address, or a clash".into()) }
    }
}
