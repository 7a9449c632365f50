"""What runs on the server: Lua, because a script is the one thing there that is atomic and can look before it writes.

The first line makes the server refuse a script as a whole, before it has done anything, where it takes no writes: on
a replica, without memory, without enough replicas. So a script is also how a reader finds out that it asks a replica.
All keys are passed, so a cluster can check that they are in one slot.
"""

from __future__ import annotations

import hashlib

TAG_BITS = 26
"""The bits of a tag: two of them are a whole number that Lua keeps exactly, as a double."""


class Script:
    """A script, known to servers by its digest."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


INTRODUCE = Script(
    """#!lua
-- KEYS: meta. ARGV: the identity and the format of a store that is to be made if there is none; none to make none.
if ARGV[1] and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'identity', ARGV[1], 'format', ARGV[2], 'head', 0, 'tag', 0, 'largest', 0)
end
return redis.call('HMGET', KEYS[1], 'identity', 'format', 'largest')
"""
)

APPEND = Script(
    """#!lua
-- Judge commits one behind the other, and store those whose expectations hold.
-- KEYS: events, meta, and the list of each actor that is written. ARGV: identity, tag of this batch, bytes in front
-- of the actor in a key; then for each commit the number of its writes, and for each of these the place of the actor's
-- key, the expected version, the number of events, and the events.
-- Returns the tag in front of the batch, the largest event so far, and for each commit the position of its last event
-- or {number of the write, current version, or the error of asking for it}. Whatever can fail fails before anything is
-- written: a script is not rolled back.
local meta = redis.call('HMGET', KEYS[2], 'identity', 'head', 'tag', 'largest')
if meta[1] ~= ARGV[1] then return {-1} end
local head, tag, largest = tonumber(meta[2]), tonumber(meta[3]), tonumber(meta[4])
local own, front = tonumber(ARGV[2]), tonumber(ARGV[3]) + 1
local before, versions, answers, at = head, {}, {tag, largest}, 4

local function judge(writes, place)
  local verdict
  for number = 1, writes do
    local key, expected = tonumber(ARGV[place]), tonumber(ARGV[place + 1])
    versions[key] = versions[key] or redis.pcall('LLEN', KEYS[key])
    if versions[key] ~= expected and not verdict then
      verdict = {number, type(versions[key]) == 'table' and versions[key].err or versions[key]}
    end
    place = place + 3 + tonumber(ARGV[place + 2])
  end
  return verdict, place
end

local function store(writes, place)
  for _ = 1, writes do
    local key, count = tonumber(ARGV[place]), tonumber(ARGV[place + 2])
    local actor, version, positions = string.sub(KEYS[key], front), versions[key], {}
    for number = 1, count do
      local event = ARGV[place + 2 + number]
      head = head + 1
      redis.call('XADD', KEYS[1], string.format('%d-%d', head, tag * 67108864 + own), version + number .. ' ' .. actor,
                 event)
      tag = own
      largest = math.max(largest, #event)
      positions[number] = head
    end
    for first = 1, count, 4000 do  -- unpack fails at 8000
      redis.call('RPUSH', KEYS[key], unpack(positions, first, math.min(first + 3999, count)))
    end
    versions[key] = version + count
    place = place + 3 + count
  end
end

while at <= #ARGV do
  local writes = tonumber(ARGV[at])
  local verdict, behind = judge(writes, at + 1)
  if not verdict then store(writes, at + 1) end
  answers[#answers + 1] = verdict or head
  at = behind
end
if head ~= before then
  redis.call('HSET', KEYS[2], 'head', head, 'tag', tag, 'largest', largest)
  answers[2] = largest
end
return answers
"""
)

PAGE = Script(
    """#!lua flags=no-writes
-- Read events up to a number of bytes. KEYS: events. ARGV: bytes, then ranges of positions, first and last in turn.
-- A few at once, as a call for each costs more than the event; so what is read in vain is a few events, too.
local found, size, most = {}, 0, 1
for at = 2, #ARGV, 2 do
  local position, last = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  while position <= last do
    local entries = redis.call('XRANGE', KEYS[1], position, last, 'COUNT', most)
    if #entries == 0 then return found end
    for _, entry in ipairs(entries) do
      found[#found + 1] = entry
      size = size + #entry[2][2]
      if size >= tonumber(ARGV[1]) then return found end
    end
    position = tonumber(string.match(entries[#entries][1], '^%d+')) + 1
    most = math.min(2 * most, 16)
  end
end
return found
"""
)

SAVE = Script(
    """#!lua
-- Compare and set a slot. KEYS: slot, meta. ARGV: identity, expected revision, value.
-- Returns the new revision, -1 at another revision, -2 at another store.
if redis.call('HGET', KEYS[2], 'identity') ~= ARGV[1] then return -2 end
local revision = tonumber(redis.call('HGET', KEYS[1], 'revision') or 0)
if revision ~= tonumber(ARGV[2]) then return -1 end
redis.call('HSET', KEYS[1], 'revision', revision + 1, 'value', ARGV[3])
return revision + 1
"""
)

CAS = Script(
    """#!lua
-- Compare and set a lease, and tell who watches. KEYS: leases. ARGV: name, expected revision, value, channel.
-- Returns the new revision, or -1.
local found = redis.call('HGET', KEYS[1], ARGV[1])
local revision = found and tonumber(string.match(found, '^%d+')) or 0
if revision ~= tonumber(ARGV[2]) then return -1 end
local record = string.format('%d', revision + 1) .. ' ' .. ARGV[3]  -- format ends at a NUL
redis.call('HSET', KEYS[1], ARGV[1], record)
redis.call('PUBLISH', ARGV[4], ARGV[1] .. '\\n' .. record)
return revision + 1
"""
)
