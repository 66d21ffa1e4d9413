-- Take a place on the ring.
--
-- KEYS     see prelude.lua
-- ARGV[4]  boot
-- ARGV[5]  generation, padded
-- ARGV[6]  the member as JSON, without slot
-- ARGV[7]  n_slots: how many workers the arbiter wants
-- ARGV[8]  the highest epoch that the caller knows
-- ARGV[9]  `born` of the last view that the caller has; 0: none
-- ARGV[10..] the members of that view: slot, JSON, slot, JSON, ...
--
-- Reply    {how, slot, epoch, born}
--          'joined'      a new place
--          'again'       this boot had its place already (a repeated call, or Redis was emptied)
--          'superseded'  a live member is of a newer generation; no place (slot -1)
--
-- Places: the lowest free slot below n_slots; else the lowest held by an OLDER generation, whose holder is
-- superseded (so a reload moves each user at most once); else the lowest free one from n_slots on.
local boot, generation, json = ARGV[4], ARGV[5], ARGV[6]
local n_slots, known, known_born = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local address = cjson.decode(json).address

redis.call('HSETNX', RING, 'born', text(now))
local by_slot, changed = members(), false

-- Redis was emptied a moment ago: what the caller last saw comes back, each with a fresh lease. Otherwise
-- the first one back would own everybody for a moment. Those that are dead die by lease. A seed never
-- displaces anybody, and one address is there at most once (a second one is a former life of it).
-- Only for one lease after the keys were created: a caller that wakes later has a view that is too old.
if known_born ~= born() and now - born() < LEASE_MS then
  local addresses = {}
  for _, member in pairs(by_slot) do
    addresses[member.address] = true
  end
  for i = 10, #ARGV, 2 do
    local slot, seed = tonumber(ARGV[i]), cjson.decode(ARGV[i + 1])
    if not by_slot[slot] and not addresses[seed.address] then
      redis.call('HSET', MEMBERS, slot, ARGV[i + 1])
      renew(seed.boot)
      by_slot[slot], changed = seed, true
    end
  end
end

local mine = nil
for slot, member in pairs(by_slot) do
  if member.boot == boot then
    mine = slot
  elseif member.address == address then
    remove(slot, member.boot) -- a former life of this process
    by_slot[slot], changed = nil, true
  end
end

local function reply(how, slot)
  keep()
  return {how, slot, changed and change(known) or epoch(), born()}
end

if mine then
  renew(boot)
  return reply('again', mine)
end

for _, member in pairs(by_slot) do
  if member.generation > generation and lease(member.boot) > now then
    return reply('superseded', -1)
  end
end

local free, older, beyond = nil, nil, n_slots
for slot = n_slots - 1, 0, -1 do
  if not by_slot[slot] then free = slot end
end
for slot, member in pairs(by_slot) do
  if member.generation < generation and (not older or slot < older) then older = slot end
end
while by_slot[beyond] do beyond = beyond + 1 end

local slot = free or older or beyond
if by_slot[slot] then
  remove(slot, by_slot[slot].boot)
end
redis.call('HSET', MEMBERS, slot, json)
renew(boot)
changed = true
return reply('joined', slot)
