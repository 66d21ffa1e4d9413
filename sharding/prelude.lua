-- Goes in front of every script of this folder. It defines; it changes nothing by itself.
--
-- KEYS[1] ring     hash: epoch, born (ms, when the hash was created)
-- KEYS[2] members  hash: slot -> member as JSON (generation: padded decimal text, compares like the number)
-- KEYS[3] leases   hash: boot -> "<expires ms> <unbroken since ms>"
-- ARGV[1] channel of changes, ARGV[2] lifetime of the keys in ms, ARGV[3] length of a lease in ms
--
-- All times are Redis' own clock, so workers' clocks never matter.
local RING, MEMBERS, LEASES = KEYS[1], KEYS[2], KEYS[3]
local CHANNEL, LIFETIME_MS, LEASE_MS = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function text(number)
  return string.format('%.0f', number)
end

local function epoch()
  return tonumber(redis.call('HGET', RING, 'epoch') or '0')
end

-- When the keys were created; 0: there are none. A member that knows another value has seen Redis emptied.
local function born()
  return tonumber(redis.call('HGET', RING, 'born') or '0')
end

-- Each use puts off the end of all keys.
local function keep()
  for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, LIFETIME_MS)
  end
end

-- A membership change: the epoch grows, and is published. `known`: the highest that the caller has seen.
local function change(known)
  local new = math.max(epoch() + 1, known + 1, now)
  redis.call('HSET', RING, 'epoch', text(new))
  redis.call('PUBLISH', CHANNEL, text(new))
  return new
end

-- slot -> member. What cannot be read is as if it were not there: its slot is free.
local function members()
  local found = {}
  local stored = redis.call('HGETALL', MEMBERS)
  for i = 1, #stored, 2 do
    local ok, member = pcall(cjson.decode, stored[i + 1])
    if ok and type(member) == 'table' and member.boot and member.generation then
      found[tonumber(stored[i])] = member
    end
  end
  return found
end

-- (expires, unbroken since); (0, now) for a boot without a lease.
local function lease(boot)
  local stored = redis.call('HGET', LEASES, boot) or ''
  local expires, since = string.match(stored, '^(%d+) (%d+)$')
  return tonumber(expires or '0'), tonumber(since or text(now))
end

-- A lease that had run out begins anew: its holder must hold it for a full length before it may evict.
-- So after a stall of Redis, in which every lease ran out, nobody evicts anybody before that.
local function renew(boot)
  local expires, since = lease(boot)
  if expires <= now then
    since = now
  end
  redis.call('HSET', LEASES, boot, text(now + LEASE_MS) .. ' ' .. text(since))
  return since
end

local function remove(slot, boot)
  redis.call('HDEL', MEMBERS, slot)
  redis.call('HDEL', LEASES, boot)
end
