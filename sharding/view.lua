-- The ring as it is. Changes nothing.
--
-- KEYS     see prelude.lua
--
-- Reply    {epoch, born, slot, JSON, slot, JSON, ...}
local reply = {epoch(), born()}
for slot in pairs(members()) do
  table.insert(reply, slot)
  table.insert(reply, redis.call('HGET', MEMBERS, slot))
end
return reply
