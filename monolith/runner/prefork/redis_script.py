"""The worker's Lua script: in one round trip it records what has ended and takes what is next, in the keys and formats of RQ.

It leaves in Redis what RQ 3.0 leaves; tests/monolith/runner/prefork/test_worker_conformance.py compares. Taking a job and
registering it as started are one step, so a killed worker loses no job. RQ's set of this worker's executions says what it has
taken: an ending whose execution is no longer in it was recorded before, or the job was given to another worker; it changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from redis import Redis
from rq.defaults import RQ_KEY_PREFIX
from rq.queue import Queue
from rq.utils import as_text, now, utcformat

from monolith.runner.prefork.task import Ending, Task

REFUSED_S = 7 * 24 * 3600  # how long a refused job is kept, as <prefix>:refused:<its id>
MAX_SKIPPED = 100  # jobs without a free slot that one turn skips to find others

# KEYS: the queues, in the order to take from them.
# ARGV: prefix, worker, now as ISO and as epoch, the worker's ttl, the longest interval between heartbeats, the state to set,
#       free slots for ordinary and for I/O-bound jobs, how many jobs without a free slot may be skipped, how many jobs to take
#       from one queue in a row, the start of execution ids, for how long a refused job is kept,
#       the number of endings, and for each: how, job, execution, queue, and for `finish` and `close`
#       ended as ISO and as epoch, started as epoch, seconds, result_ttl, result.
TURN = """
local prefix, worker, iso, epoch = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local worker_ttl, monitoring, state = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local free, free_io_bound, max_skipped = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local in_a_row, execution_start, refused_s = tonumber(ARGV[11]), ARGV[12], tonumber(ARGV[13])
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

local function refuse(job, id)
  if redis.call('EXISTS', job) == 0 then return end
  redis.call('RENAME', job, prefix .. ':refused:' .. id)
  redis.call('EXPIRE', prefix .. ':refused:' .. id, refused_s)
end

-- Tested by a command that writes: a key that a script reads is tracked until it changes, and this one might never change.
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
  if how == 'finish' or how == 'close' then
    if how == 'close' then redis.call('DEL', job .. ':dependents') end
    if how == 'finish' and has_dependents(job) then
      late[#late + 1] = execution
    elseif release(id, execution, queue) and redis.call('EXISTS', job) == 1 then
      finish(id, execution, queue, p)
      done = done + 1
      seconds = seconds + tonumber(ARGV[p + 3])
    end
    p = p + 6
  elseif how == 'refuse' then
    release(id, execution, queue)
    refuse(job, id)
  elseif release(id, execution, queue) and is_ours(job) then
    if how == 'requeue' then
      redis.call('HSET', job, 'status', 'queued', 'started_at', '', 'worker_name', '')
      redis.call('LPUSH', prefix .. ':queue:' .. queue, id)
    else
      redis.call('DEL', job)
    end
  end
end

local taken = {}
local function start(k, id, fields, io_bound)
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
  taken[#taken + 1] = {k, id, execution, io_bound, has_dependents(job) and 1 or 0, fields}
end

-- Reads the length last, so that Redis reports the next change of the queue.
local more, more_io_bound, unscanned = 0, 0, 0
local function take_from(k, most)
  local place, skipped, found = 0, 0, 0
  while found < most and free + free_io_bound > 0 and skipped <= max_skipped do
    local id = redis.call('LINDEX', KEYS[k], place)
    if not id then return found end
    local job = prefix .. ':job:' .. id
    local meta = redis.pcall('HGET', job, 'meta')
    local is_invalid = type(meta) == 'table' -- an error: the key holds no hash
    local io_bound = 0
    -- The key `waits` is the old name of `io_bound`, accepted for one release.
    if not is_invalid and meta and (string.find(meta, 'io_bound', 1, true) or string.find(meta, 'waits', 1, true)) then io_bound = 1 end
    if is_invalid then
      if place == 0 then redis.call('LPOP', KEYS[k]) else redis.call('LREM', KEYS[k], 1, id) end
      refuse(job, id)
    elseif (io_bound == 1 and free_io_bound or free) > 0 then
      if place == 0 then redis.call('LPOP', KEYS[k]) else redis.call('LREM', KEYS[k], 1, id) end
      local fields = redis.call('HGETALL', job)
      if #fields > 0 then
        start(k, id, fields, io_bound)
        found = found + 1
        if io_bound == 1 then free_io_bound = free_io_bound - 1 else free = free - 1 end
      end
    else
      if io_bound == 1 then more_io_bound = 1 else more = 1 end
      place = place + 1
      skipped = skipped + 1
      if max_skipped == 0 then unscanned = 1 end
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
  until found == 0 or free + free_io_bound <= 0
  if free + free_io_bound <= 0 then more, more_io_bound = 1, 1 end
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
return {taken, late, more, more_io_bound, unscanned, is_suspended, is_known}
"""
UNLIMITED = 1_000_000


@dataclass(frozen=True)
class FreeSlots:
    """How many more tasks can be taken: ordinary and I/O-bound ones."""

    ordinary: int = 0
    io_bound: int = 0

    def __bool__(self) -> bool:
        return self.ordinary > 0 or self.io_bound > 0


@dataclass
class Turn:
    """The result of one run of the script."""

    taken: list[Task] = field(default_factory=list)
    late: set[str] = field(default_factory=set)  # executions of finished jobs that got dependents: RQ's own code must end those
    more: bool = False  # ordinary jobs may be left, for which there was no slot
    more_io_bound: bool = False
    unscanned: bool = False  # behind a job without a free slot, jobs of the other kind may be left
    is_suspended: bool = False
    is_known: bool = True  # Redis has this worker's hash


class RedisScript:
    """The script for one worker. `client` is that of its `Connections`; times in seconds."""

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
        free: FreeSlots,
        state: str,
        *,
        skips: bool,
        in_a_row: int = UNLIMITED,
    ) -> Turn:
        """Record the endings and take jobs from the queues, in one round trip.

        skips: whether to look for jobs behind those of the other kind that have no free slot.
        in_a_row: how many jobs to take from a queue before the next one's turn.
        Raises RedisError: then it may or may not have been done, and the endings can be passed again.
        """
        moment = now()
        arguments: list[str | bytes | int | float] = [RQ_KEY_PREFIX, self._worker, utcformat(moment), moment.timestamp()]
        arguments += [self._ttl, self._monitoring_s, state, max(0, free.ordinary), max(0, free.io_bound)]
        arguments += [MAX_SKIPPED if skips else 0, in_a_row]
        arguments += [os.urandom(14).hex(), REFUSED_S, len(endings)]
        for ending in endings:
            task = ending.task
            arguments += [ending.how, *map(os.fsencode, (task.job_id, task.execution_id, task.queue.name))]
            if ending.how in ("finish", "close"):
                ended_at = ending.ended_at or moment
                ttl = self._result_ttl if task.result_ttl is None else task.result_ttl
                arguments += [utcformat(ended_at), ended_at.timestamp(), task.taken_at.timestamp()]
                arguments += [(ended_at - task.taken_at).total_seconds(), ttl, ending.result]
        taken, late, *flags = self._script(keys=[queue.key for queue in queues], args=arguments)
        tasks = []
        for number, job_id, execution_id, io_bound, has_dependents, flat in taken:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            queue = queues[int(number) - 1]
            tasks.append(Task(os.fsdecode(job_id), as_text(execution_id), queue, fields, moment, bool(has_dependents), bool(io_bound)))
        return Turn(tasks, {as_text(one) for one in late}, *map(bool, flags))

    def unknown_executions(self, executions_key: str, known: set[str]) -> list[str]:
        """The executions that only Redis says we run: taken in a turn whose answer was lost."""
        found = {os.fsdecode(one) for one in self._client.smembers(executions_key)}
        return sorted(found - known)
