"""What RQ keeps in Redis about a job that runs, in one script: write down what has ended and take what is next, for many jobs at once.

It leaves what RQ 3.0 leaves; tests/worker/test_conformance.py compares. Taking and registering as started are one step, so
there is no moment in which a killed worker loses a job. What this worker has taken is in RQ's set of its executions: an
ending whose execution is not there any more was written down before, or was given to somebody else, and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from redis import Redis
from rq.defaults import RQ_KEY_PREFIX
from rq.queue import Queue
from rq.utils import as_text, now, utcformat

from monolith.runner.prefork.task import Ending, Task

ASIDE_S = 7 * 24 * 3600  # for so long a job that was refused is kept, as <prefix>:refused:<its id>
MOST_SKIPPED = 100  # jobs for which there is no room, that are looked past for others, in one turn

# KEYS: the queues, in the order to take from them.
# ARGV: prefix, worker, now as ISO and as epoch, the worker's ttl, the most a heartbeat lasts, the state to be in,
#       room for ordinary and for waiting jobs, how many jobs without room may be looked past, how many one queue gives
#       in a row, the start of execution ids, for how long a refused job is kept,
#       the number of endings, and for each: how, job, execution, queue, and for `done`
#       ended as ISO and as epoch, started as epoch, seconds, result_ttl, result.
TURN = """
local prefix, worker, iso, epoch = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local worker_ttl, monitoring, state = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local room, waiting_room, most_skipped = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local in_a_row, execution_start, aside_s = tonumber(ARGV[11]), ARGV[12], tonumber(ARGV[13])
local worker_key = prefix .. ':worker:' .. worker
local executions_key = worker_key .. ':executions'

local function release(id, execution, queue)
  local composite = id .. ':' .. execution
  if redis.call('SREM', executions_key, composite) == 0 then return false end
  redis.call('DEL', prefix .. ':execution:' .. composite)
  redis.call('ZREM', prefix .. ':executions:' .. id, execution)
  redis.call('ZREM', prefix .. ':wip:' .. queue, composite)
  return true
end

local function finish(id, execution, queue, p)
  local job, results = prefix .. ':job:' .. id, prefix .. ':results:' .. id
  local ended, ended_epoch, started_epoch, ttl, result = ARGV[p], ARGV[p + 1], ARGV[p + 2], tonumber(ARGV[p + 4]), ARGV[p + 5]
  redis.call('HSET', job, 'status', 'finished', 'ended_at', ended, 'last_heartbeat', ended)
  local entry = {'type', '1', 'worker_name', worker, 'execution_id', execution,
    'execution_started_at', started_epoch, 'execution_ended_at', ended_epoch}
  if result ~= '' then
    entry[#entry + 1] = 'return_value'
    entry[#entry + 1] = result
  end
  redis.call('XADD', results, 'MAXLEN', '~', '10', '*', unpack(entry))
  if ttl > 0 then
    redis.call('EXPIRE', results, ttl)
    redis.call('EXPIRE', job, ttl)
    redis.call('EXPIRE', prefix .. ':job::' .. id .. ':dependencies', ttl)
    redis.call('ZADD', prefix .. ':finished:' .. queue, epoch + ttl, id)
  else
    redis.call('PERSIST', results)
    redis.call('ZADD', prefix .. ':finished:' .. queue, '+inf', id)
  end
end

local function put_aside(job, id)
  if redis.call('EXISTS', job) == 0 then return end
  redis.call('RENAME', job, prefix .. ':refused:' .. id)
  redis.call('EXPIRE', prefix .. ':refused:' .. id, aside_s)
end

-- Asked by a command that writes: what a script reads is tracked for its caller until it changes, and this would never change.
local function has_dependents(job)
  local key = job .. ':dependents'
  if redis.call('EXPIRE', key, 86400) == 0 then return false end
  redis.call('PERSIST', key)
  return true
end

local function is_ours(job)
  local fields = redis.call('HMGET', job, 'status', 'worker_name')
  return fields[1] == 'started' and fields[2] == worker
end

local p = 15
local late, done, seconds = {}, 0, 0
for _ = 1, tonumber(ARGV[14]) do
  local how, id, execution, queue = ARGV[p], ARGV[p + 1], ARGV[p + 2], ARGV[p + 3]
  local job = prefix .. ':job:' .. id
  p = p + 4
  if how == 'done' then
    if has_dependents(job) then
      late[#late + 1] = execution
    elseif release(id, execution, queue) and redis.call('EXISTS', job) == 1 then
      finish(id, execution, queue, p)
      done = done + 1
      seconds = seconds + tonumber(ARGV[p + 3])
    end
    p = p + 6
  elseif how == 'aside' then
    release(id, execution, queue)
    put_aside(job, id)
  elseif release(id, execution, queue) and is_ours(job) then
    if how == 'back' then
      redis.call('HSET', job, 'status', 'queued', 'started_at', '', 'worker_name', '')
      redis.call('LPUSH', prefix .. ':queue:' .. queue, id)
    else
      redis.call('DEL', job)
    end
  end
end

local taken = {}
local function start(k, id, fields, waits)
  local timeout, queue = 0, string.sub(KEYS[k], #prefix + 8)
  for i = 1, #fields, 2 do
    if fields[i] == 'timeout' then timeout = tonumber(fields[i + 1]) or 0 end
  end
  local ttl = monitoring + 60
  if timeout > 0 and timeout < monitoring then ttl = timeout + 60 end
  local execution = execution_start .. string.format('%04x', #taken)
  local composite = id .. ':' .. execution
  local job, execution_key, registry = prefix .. ':job:' .. id, prefix .. ':execution:' .. composite, prefix .. ':executions:' .. id
  redis.call('HSET', execution_key, 'id', execution, 'job_id', id, 'created_at', ARGV[4], 'last_heartbeat', ARGV[4],
    'worker_name', worker)
  redis.call('EXPIRE', execution_key, ttl)
  redis.call('ZADD', registry, epoch + ttl + 60, execution)
  redis.call('EXPIRE', registry, ttl + 60)
  redis.call('ZADD', prefix .. ':wip:' .. queue, epoch + ttl, composite)
  redis.call('SADD', executions_key, composite)
  redis.call('HSET', job, 'last_heartbeat', iso, 'status', 'started', 'started_at', iso, 'worker_name', worker)
  redis.call('PERSIST', job)
  taken[#taken + 1] = {k, id, execution, waits, has_dependents(job) and 1 or 0, fields}
end

-- Reading the length last has the caller told of the next change of the queue.
local more, more_waiting, unseen = 0, 0, 0
local function take_from(k, most)
  local place, skipped, found = 0, 0, 0
  while found < most and room + waiting_room > 0 and skipped <= most_skipped do
    local id = redis.call('LINDEX', KEYS[k], place)
    if not id then return found end
    local job = prefix .. ':job:' .. id
    local meta = redis.pcall('HGET', job, 'meta')
    local is_odd = type(meta) == 'table' -- an error: what is there is no hash
    local waits = (not is_odd and meta and string.find(meta, 'waits', 1, true)) and 1 or 0
    if is_odd then
      if place == 0 then redis.call('LPOP', KEYS[k]) else redis.call('LREM', KEYS[k], 1, id) end
      put_aside(job, id)
    elseif (waits == 1 and waiting_room or room) > 0 then
      if place == 0 then redis.call('LPOP', KEYS[k]) else redis.call('LREM', KEYS[k], 1, id) end
      local fields = redis.call('HGETALL', job)
      if #fields > 0 then
        start(k, id, fields, waits)
        found = found + 1
        if waits == 1 then waiting_room = waiting_room - 1 else room = room - 1 end
      end
    else
      if waits == 1 then more_waiting = 1 else more = 1 end
      place = place + 1
      skipped = skipped + 1
      if most_skipped == 0 then unseen = 1 end
    end
  end
  redis.call('LLEN', KEYS[k])
  return found
end

local is_suspended = redis.call('EXISTS', prefix .. ':suspended')
if is_suspended == 0 then
  local found
  repeat
    found = 0
    for k = 1, #KEYS do found = found + take_from(k, in_a_row) end
  until found == 0 or room + waiting_room <= 0
  if room + waiting_room <= 0 then more, more_waiting = 1, 1 end
end

local is_known = redis.call('EXISTS', worker_key)
if is_known == 1 then
  if #taken > 0 then state = 'busy' end
  if state ~= '' then redis.call('HSET', worker_key, 'state', state) end
  if done > 0 then
    redis.call('HINCRBY', worker_key, 'successful_job_count', done)
    redis.call('HINCRBYFLOAT', worker_key, 'total_working_time', seconds)
  end
end
if #taken > 0 then redis.call('EXPIRE', executions_key, worker_ttl) end
return {taken, late, more, more_waiting, unseen, is_suspended, is_known}
"""
EVERYTHING = 1_000_000


@dataclass(frozen=True)
class FreeSlots:
    """How many more tasks there is room for: ordinary ones, and ones that mostly wait."""

    ordinary: int = 0
    waiting: int = 0

    def __bool__(self) -> bool:
        return self.ordinary > 0 or self.waiting > 0


@dataclass
class Turn:
    """What one turn brought. `late` are executions of finished jobs that have dependents: RQ's own code ends those."""

    taken: list[Task] = field(default_factory=list)
    late: set[str] = field(default_factory=set)
    more: bool = False  # ordinary jobs may be left, for which there was no room
    more_waiting: bool = False
    unseen: bool = False  # behind a job for which there was no room, jobs of the other kind may be left
    is_suspended: bool = False
    is_known: bool = True


class RedisScript:
    """The script, bound to one worker and its queues. `client` is that of the `Wire`."""

    def __init__(self, client: Redis, worker: str, ttl: int, monitoring_s: int, result_ttl: int) -> None:
        self._client = client
        self._script = client.register_script(TURN)
        self._worker = worker
        self._ttl = ttl
        self._monitoring_s = monitoring_s
        self._result_ttl = result_ttl

    def turn(
        self,
        endings: Sequence[Ending],
        queues: Sequence[Queue],
        room: FreeSlots,
        state: str,
        *,
        looks_past: bool,
        in_a_row: int = EVERYTHING,
    ) -> Turn:
        """One round trip. `looks_past`: whether jobs of one kind are looked for behind those of the other, for which there is no room.
        Raises RedisError: then nobody knows whether it was done, and the endings may be given again."""
        moment = now()
        arguments: list[str | bytes | int | float] = [RQ_KEY_PREFIX, self._worker, utcformat(moment), moment.timestamp()]
        arguments += [self._ttl, self._monitoring_s, state, max(0, room.ordinary), max(0, room.waiting)]
        arguments += [MOST_SKIPPED if looks_past else 0, in_a_row]
        arguments += [os.urandom(14).hex(), ASIDE_S, len(endings)]
        for ending in endings:
            task = ending.task
            arguments += [ending.how, *map(os.fsencode, (task.job_id, task.execution_id, task.queue.name))]
            if ending.how == "done":
                arguments += self._of_finished(ending, ending.ended_at or moment)
        taken, late, *flags = self._script(keys=[queue.key for queue in queues], args=arguments)
        tasks = [_task(queues[int(one[0]) - 1], one, moment) for one in taken]
        return Turn(tasks, {as_text(one) for one in late}, *map(bool, flags))

    def _of_finished(self, ending: Ending, ended_at: datetime) -> list[str | bytes | int | float]:
        task = ending.task
        ttl = self._result_ttl if task.result_ttl is None else task.result_ttl
        seconds = (ended_at - task.taken_at).total_seconds()
        return [utcformat(ended_at), ended_at.timestamp(), task.taken_at.timestamp(), seconds, ttl, ending.result]

    def strays(self, executions_key: str, known: set[str]) -> list[str]:
        """The executions that Redis says we run and we know nothing of: taken in a turn whose answer was lost."""
        found = {os.fsdecode(one) for one in self._client.smembers(executions_key)}
        return sorted(found - known)


def _task(queue: Queue, found: list[Any], moment: datetime) -> Task:
    _, job_id, execution_id, waits, has_dependents, flat = found
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return Task(os.fsdecode(job_id), as_text(execution_id), queue, fields, moment, bool(has_dependents), bool(waits))
