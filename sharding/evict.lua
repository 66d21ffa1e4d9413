-- Take a member off the ring: it leaves, or somebody has proof of its death, or its lease has run out.
--
-- KEYS     see prelude.lua
-- ARGV[4]  boot of the member that goes
-- ARGV[5]  its slot
-- ARGV[6]  boot of whoever evicts ('' for 'left' and 'dead')
-- ARGV[7]  why: 'left' | 'dead' | 'expired'
--
-- Reply    {status, epoch}
--          'evicted'  done by this call
--          'gone'     the slot does not hold that boot (any more): somebody was faster
--          'alive'    'expired' only: it has renewed its lease
--          'unfit'    'expired' only: the evictor's own lease is not unbroken for a full lease
local boot, slot, evictor, why = ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7]
local member = members()[slot]

if not member or member.boot ~= boot then
  return {'gone', epoch()}
end

if why == 'expired' then
  if lease(boot) > now then
    return {'alive', epoch()}
  end
  local expires, since = lease(evictor)
  if expires <= now or since > now - LEASE_MS then
    return {'unfit', epoch()}
  end
end

remove(slot, boot)
local new = change(0)
keep()
return {'evicted', new}
