-- Renew a lease, and hear what has happened meanwhile.
--
-- KEYS     see prelude.lua
-- ARGV[4]  boot
-- ARGV[5]  slot
-- ARGV[6]  the highest epoch that the caller knows
-- ARGV[7]  `born` of the last view that the caller has
--
-- Reply    {status, epoch, boot, boot, ...}
--          'held'     renewed. Then come the boots whose leases have run out, if the caller may evict them:
--                     if its own was unbroken for a full lease.
--          'emptied'  Redis was emptied: join again, under the same boot id
--          'evicted'  the slot is not the caller's any more
local boot, slot, known, known_born = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local by_slot = members()

if not by_slot[slot] or by_slot[slot].boot ~= boot then
  local lost = born() == 0 or (known_born ~= born() and now - born() < LEASE_MS)
  return {lost and 'emptied' or 'evicted', epoch()}
end

-- Redis came back with an older state: no member would believe an epoch lower than what it has seen.
if known > epoch() then
  change(known)
end

local reply = {'held', epoch()}
if renew(boot) <= now - LEASE_MS then
  for _, member in pairs(by_slot) do
    if member.boot ~= boot and lease(member.boot) <= now then
      table.insert(reply, member.boot)
    end
  end
end
keep()
return reply
