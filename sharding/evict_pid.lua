-- Take every member with this pid off the ring: its parent has reaped it, so it is dead.
--
-- KEYS     see prelude.lua
-- ARGV[4]  pid
--
-- Reply    {number of members taken off, epoch}
local pid, count = tonumber(ARGV[4]), 0
for slot, member in pairs(members()) do
  if member.pid == pid then
    remove(slot, member.boot)
    count = count + 1
  end
end
if count == 0 then
  return {0, epoch()}
end
local new = change(0)
keep()
return {count, new}
