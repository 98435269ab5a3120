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
MAX_STALE = 1000  # ids of jobs that are gone which one turn removes
LONG_QUEUE, AT_ONCE = 10_000, 64  # of a queue of so many jobs, one turn takes few: each may be searched through the whole list

# KEYS: the queues, in the order to take from them.
# ARGV: prefix, worker, now as ISO and as epoch, the worker's ttl, the longest interval between heartbeats, the state to set,
#       free slots for ordinary and for I/O-bound jobs, how many jobs without a free slot may be skipped, how many jobs to take
#       from one queue in a row, the start of execution ids, for how long a refused job is kept, how many stale ids to remove,
#       how long a long queue is, how many jobs to take from it at once,
#       the number of endings, and for each: how, job, execution, queue, and for `finish` and `close`
#       ended as ISO, seconds, result_ttl, and for `finish` ended and started as epoch, result.
TURN = """
local prefix, worker, iso, epoch = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local worker_ttl, monitoring, state = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local free, free_io_bound, max_skipped = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local in_a_row, execution_start, refused_s, max_stale = tonumber(ARGV[11]), ARGV[12], tonumber(ARGV[13]), tonumber(ARGV[14])
local long_queue, at_once = tonumber(ARGV[15]), tonumber(ARGV[16])
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

local function keep_result(id, execution, ended_epoch, started_epoch, ttl, result)
  local results = prefix .. ':results:' .. id
  local entry = {'type', '1', 'worker_name', worker, 'execution_id', execution,
    'execution_started_at', started_epoch, 'execution_ended_at', ended_epoch}
  if result ~= '' then
    entry[#entry + 1] = 'return_value'
    entry[#entry + 1] = result
  end
  redis.call('XADD', results, 'MAXLEN', '~', '10', '*', unpack(entry))
  if ttl > 0 then
    redis.call('EXPIRE', results, ttl)
    redis.call('EXPIRE', prefix .. ':job::' .. id .. ':dependencies', ttl)
  else
    redis.call('PERSIST', results)
  end
end

local function finish(id, queue, ended, ttl)
  local job = prefix .. ':job:' .. id
  redis.call('HSET', job, 'status', 'finished', 'ended_at', ended, 'last_heartbeat', ended)
  if ttl > 0 then redis.call('EXPIRE', job, ttl) end
  redis.call('ZADD', prefix .. ':finished:' .. queue, ttl > 0 and epoch + ttl or '+inf', id)
end

local function refuse(job, id)
  if redis.call('EXISTS', job) == 0 then return end
  redis.call('RENAME', job, prefix .. ':refused:' .. id)
  redis.call('EXPIRE', prefix .. ':refused:' .. id, refused_s)
end

-- Tested by a command that writes: a key that a script reads is tracked until it changes, and this one might never change.
local function is_there(key)
  if redis.call('EXPIRE', key, 86400) == 0 then return false end
  redis.call('PERSIST', key)
  return true
end

-- What the meta of a job says: whether it is I/O-bound, and its share.
local function read_meta(meta)
  if not meta then return 0, nil end
  -- The key `waits` is the old name of `io_bound`, accepted for one release.
  local io_bound = string.find(meta, 'io_bound', 1, true) or string.find(meta, 'waits', 1, true)
  return io_bound and 1 or 0, string.match(meta, '"share":%s*(%d+)')
end

local function shares_key(queue, io_bound)
  return prefix .. ':shares:' .. queue .. (io_bound == 1 and ':io_bound' or ':ordinary')
end

-- A command on a key of the shares. One that somebody has filled with something else is deleted: the queue's list has all jobs.
local function on_shares(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  redis.call('DEL', key)
end

-- The job did not run: its share gets the turn back.
local function return_turn(queue, meta)
  local io_bound, share = read_meta(meta)
  if share then on_shares('ZADD', shares_key(queue, io_bound), 'XX', 'INCR', -1, share) end
end

-- Put a job back in front. Its share gets the turn back.
local function put_back(id, queue, meta)
  redis.call('LPUSH', prefix .. ':queue:' .. queue, id)
  local io_bound, share = read_meta(meta)
  if share then
    on_shares('LPUSH', shares_key(queue, io_bound) .. ':' .. share, id)
    on_shares('ZINCRBY', shares_key(queue, io_bound), -1, share)
  end
end

-- A field that somebody has filled with something else than a number starts anew.
local function count(key, command, field, more)
  local answer = redis.pcall(command, key, field, more)
  if type(answer) == 'table' and answer.err then redis.call('HSET', key, field, more) end
end

local p = 18
local late, done, seconds = {}, 0, 0
for _ = 1, tonumber(ARGV[17]) do
  local how, id, execution, queue = ARGV[p], ARGV[p + 1], ARGV[p + 2], ARGV[p + 3]
  local job = prefix .. ':job:' .. id
  p = p + 4
  if how == 'finish' or how == 'close' then
    if how == 'close' then redis.call('DEL', job .. ':dependents') end
    if how == 'finish' and is_there(job .. ':dependents') then
      late[#late + 1] = execution
    elseif release(id, execution, queue) and redis.call('EXISTS', job) == 1 then
      local ttl = tonumber(ARGV[p + 2])
      finish(id, queue, ARGV[p], ttl)
      if how == 'finish' then keep_result(id, execution, ARGV[p + 3], ARGV[p + 4], ttl, ARGV[p + 5]) end
      done = done + 1
      seconds = seconds + tonumber(ARGV[p + 1])
    end
    p = p + (how == 'finish' and 6 or 3)
  elseif how == 'refuse' then
    release(id, execution, queue)
    refuse(job, id)
  elseif release(id, execution, queue) then
    local fields = redis.call('HMGET', job, 'status', 'worker_name', 'meta')
    if how == 'pass' then return_turn(queue, fields[3]) end
    if fields[1] == 'started' and fields[2] == worker then
      if how == 'requeue' then
        redis.call('HSET', job, 'status', 'queued', 'started_at', '', 'worker_name', '')
        put_back(id, queue, fields[3])
      else
        redis.call('DEL', job)
      end
    end
  end
end

local taken = {}
redis.call('SREM', executions_key, '') -- ends the script here if the key is of another type, before a job is taken
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
  -- First: where a key of another type ends the script, these two let the job be found and queued again.
  redis.call('SADD', executions_key, composite)
  redis.call('HSET', job, 'last_heartbeat', iso, 'status', 'started', 'started_at', iso, 'worker_name', worker)
  redis.call('HSET', execution_key, 'id', execution, 'job_id', id, 'created_at', ARGV[4], 'last_heartbeat', ARGV[4],
    'worker_name', worker)
  redis.call('EXPIRE', execution_key, ttl)
  redis.call('ZADD', registry, epoch + ttl + 60, execution)
  redis.call('EXPIRE', registry, ttl + 60)
  redis.call('ZADD', prefix .. ':wip:' .. queue, epoch + ttl, composite)
  redis.call('PERSIST', job)
  taken[#taken + 1] = {k, id, execution, io_bound, is_there(job .. ':dependents') and 1 or 0, fields}
end

-- Shares: the jobs of a queue that name a share (in their meta) are taken by turns, one of each share. A queue's list holds all its
-- jobs, as RQ has it. Beside it, for each kind of slot, are the list of each share's jobs and a sorted set of the shares by their
-- next turn (start-time fair queueing: Goyal, Vin and Cheng, 1996): each job taken puts its share one turn behind, and a share that
-- had nothing waiting joins at the current turn. What the queue's list no longer holds is stale and costs no turn. Only commands
-- that write are used: Redis would report the next change of what is read, as it does with queues.

-- Enter the oldest job of the queue where it is missing, because RQ's own code and older workers know nothing of shares, or a push
-- was cut off. Among shares, jobs that name none are a share of their own.
local function enter_oldest(k, queue)
  for _ = 1, max_stale do
    local id = redis.call('LINDEX', KEYS[k], 0)
    if not id then return end
    local job = prefix .. ':job:' .. id
    local meta = redis.pcall('HGET', job, 'meta')
    if type(meta) == 'table' then return end
    if meta or redis.call('EXISTS', job) == 1 then
      local io_bound, share = read_meta(meta)
      local shares = shares_key(queue, io_bound)
      if not share and not is_there(shares) then return end
      share = share or '-'
      on_shares('LREM', shares .. ':' .. share, 1, id)
      on_shares('LPUSH', shares .. ':' .. share, id)
      on_shares('ZADD', shares, 'NX', 0, share)
      return
    end
    redis.call('LPOP', KEYS[k])
  end
end

-- Whether the job can be started as one of this kind. Takes its id from the list, which is searched through where it is gone.
local function take_id(k, id, fields, io_bound)
  local meta = nil
  for i = 1, #fields, 2 do
    if fields[i] == 'meta' then meta = fields[i + 1] end
  end
  return read_meta(meta) == io_bound and redis.call('LREM', KEYS[k], 1, id) > 0
end

-- Start the next job of a share. Returns whether one was started, whether its list may hold more, and what was found that is stale,
-- where a search through the queue's list counts as many.
local function take_of_share(k, list, io_bound, most_stale)
  local stale = 0
  while stale < most_stale do
    local id = on_shares('LPOP', list)
    if not id then return false, false, stale end
    local fields = redis.pcall('HGETALL', prefix .. ':job:' .. id)
    if #fields == 0 then
      stale = stale + 1
    elseif take_id(k, id, fields, io_bound) then
      start(k, id, fields, io_bound)
      return true, true, stale
    else
      stale = stale + max_stale / 20
    end
  end
  return false, true, stale
end

-- Returns how many jobs were taken, and whether stale ids may be left. The set is read and written once for all jobs: those shares
-- that had a turn follow each other by their next one, as those do that were in the set, so the next share is the first of either.
local function take_by_shares(k, queue, io_bound, most)
  if most <= 0 then return 0, false end
  local shares = shares_key(queue, io_bound)
  local waiting, place = on_shares('ZPOPMIN', shares, most) or {}, 1
  if #waiting == 0 then return 0, false end
  local turn = tonumber(on_shares('INCRBYFLOAT', shares .. ':turn', 0) or 0)
  local served, next_served = {}, 1
  local found, stale = 0, 0
  while found < most and stale < max_stale do
    if place > 2 * most then waiting, place = on_shares('ZPOPMIN', shares, most) or {}, 1 end
    local share, at = waiting[place], tonumber(waiting[place + 1])
    local again = served[next_served]
    if again and (not share or again.at < at) then
      share, at, next_served = again.share, again.at, next_served + 1
    elseif share then
      place = place + 2
    else
      break
    end
    local is_started, may_have_more, found_stale = take_of_share(k, shares .. ':' .. share, io_bound, max_stale - stale)
    stale = stale + found_stale
    if is_started then
      found, turn = found + 1, math.max(at, turn)
      at = turn + 1
    end
    if may_have_more then served[#served + 1] = {share = share, at = at} end
  end
  local left = {}
  for i = next_served, #served do
    left[#left + 1] = string.format('%.0f', served[i].at)
    left[#left + 1] = served[i].share
  end
  for i = place, #waiting, 2 do
    left[#left + 1] = waiting[i + 1]
    left[#left + 1] = waiting[i]
  end
  if #left > 0 then on_shares('ZADD', shares, unpack(left)) end
  if found > 0 then redis.call('SET', shares .. ':turn', string.format('%.0f', turn)) end
  return found, stale >= max_stale
end

-- Take what no share holds, in the order of the list.
local more, more_io_bound, unscanned = 0, 0, 0
local function take_in_order(k, most)
  local place, skipped, found = 0, 0, 0
  while found < most and free + free_io_bound > 0 and skipped <= max_skipped do
    local id = redis.call('LINDEX', KEYS[k], place)
    if not id then return found end
    local job = prefix .. ':job:' .. id
    local meta = redis.pcall('HGET', job, 'meta')
    if type(meta) == 'table' then -- an error: the key holds no hash
      if place == 0 then redis.call('LPOP', KEYS[k]) else redis.call('LREM', KEYS[k], 1, id) end
      refuse(job, id)
    else
      local io_bound = read_meta(meta)
      if (io_bound == 1 and free_io_bound or free) > 0 then
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
  end
  return found
end

-- Nothing waits, so nobody has a turn.
local function forget_shares(queue)
  for io_bound = 0, 1 do
    local shares = shares_key(queue, io_bound)
    local left = on_shares('ZPOPMIN', shares, max_stale) or {}
    local keys = {shares .. ':turn'}
    for i = 1, #left, 2 do keys[#keys + 1] = shares .. ':' .. left[i] end
    redis.call('DEL', unpack(keys))
  end
end

-- Reads the length last, so that Redis reports the next change of the queue.
local is_enough = false -- of one turn: the rest is for the next
local function take_from(k, most)
  local queue = string.sub(KEYS[k], #prefix + 8)
  local length = redis.call('LLEN', KEYS[k])
  if length == 0 then
    if max_skipped > 0 then forget_shares(queue) end -- somebody else may have emptied it
    return 0
  end
  if free + free_io_bound <= 0 then return 0 end
  local is_long = length > long_queue and most > at_once
  if is_long then most = at_once end
  local found, is_stale, is_stale_too = 0, false, false
  if length > 1 then -- a single job needs no turn
    local ordinary, io_bound
    enter_oldest(k, queue)
    ordinary, is_stale = take_by_shares(k, queue, 0, math.min(most, free))
    io_bound, is_stale_too = take_by_shares(k, queue, 1, math.min(most - ordinary, free_io_bound))
    free, free_io_bound = free - ordinary, free_io_bound - io_bound
    found = ordinary + io_bound
  end
  if is_stale or is_stale_too or (is_long and found == most) then
    is_enough, more, more_io_bound = true, 1, 1
  else
    found = found + take_in_order(k, most - found)
  end
  if redis.call('LLEN', KEYS[k]) == 0 then forget_shares(queue) end
  return found
end

local is_suspended = redis.call('EXISTS', prefix .. ':suspended')
if is_suspended == 0 then
  local is_over
  repeat
    is_over = true
    for k = 1, #KEYS do
      if take_from(k, in_a_row) >= in_a_row then is_over = false end
    end
  until is_over or is_enough or free + free_io_bound <= 0
  if free + free_io_bound <= 0 then more, more_io_bound = 1, 1 end
end

local is_known = redis.call('EXISTS', worker_key)
if is_known == 1 then
  if #taken > 0 then state = 'busy' end
  if state ~= '' then redis.call('HSET', worker_key, 'state', state) end
  if done > 0 then
    count(worker_key, 'HINCRBY', 'successful_job_count', done)
    count(worker_key, 'HINCRBYFLOAT', 'total_working_time', seconds)
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
        arguments += [os.urandom(14).hex(), REFUSED_S, MAX_STALE, LONG_QUEUE, AT_ONCE, len(endings)]
        for ending in endings:
            task = ending.task
            arguments += [ending.how, *map(os.fsencode, (task.job_id, task.execution_id, task.queue.name))]
            if ending.how in ("finish", "close"):
                ended_at = ending.ended_at or moment
                ttl = self._result_ttl if task.result_ttl is None else task.result_ttl
                arguments += [utcformat(ended_at), (ended_at - task.taken_at).total_seconds(), ttl]
                if ending.how == "finish":
                    arguments += [ended_at.timestamp(), task.taken_at.timestamp(), ending.result]
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
