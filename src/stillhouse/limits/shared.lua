-- The one script of the shared back end. All it touches it reads and writes in one step.
-- KEYS[1]: the key of the state. ARGV: what to do, the state the caller knows, its request as JSON.
-- Cells, marks, lows and refunds are those of cells.py; all numbers are integers below 2^53, which
-- doubles hold exactly. Every answer is one string, which a client in Python reads in one piece:
-- words to claim, load and clear, or an 8-byte double for each number. Nothing that counts goes by
-- the server's expiry of keys: a step of its clock would drop it.

local LEVEL_MAX = 9007199254740991
local LOWS_MAX = 64
local DAY = 86400000000
local RECORD_LIFE = DAY  -- an open reservation is kept so long; then it stays charged for good
local CELLS = {rolling = true, month = true, balance = true}  -- kinds that are one value
local floor, max, min = math.floor, math.max, math.min
local pack, unpack_ = cmsgpack.pack, cmsgpack.unpack

-- What a reservation and a settlement are answered with, first of all; shared.py has the same.
local RESERVED, REFUSED, USED, SETTLED, ALREADY, UNKNOWN = 1, 2, 3, 4, 5, 6

local function numbers(values)
  return struct.pack('<' .. string.rep('d', #values), unpack(values))
end

local function server_time()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local what, known = ARGV[1], ARGV[2]
local state = redis.call('GET', KEYS[1])

if what == 'claim' then
  -- Begin to rebuild under a new epoch, unless it is ready or another process is at it.
  local asked = cjson.decode(ARGV[3])
  local now = server_time()
  -- All processes write their ledgers in one folder, or a rebuilding would not know of some.
  local ledgers = redis.call('GET', KEYS[1] .. ':ledgers')
  if ledgers and ledgers ~= asked.ledgers then return 'stranger ' .. (state or '') end
  if state then
    local epoch, run, phase, since = string.match(state, '^(%w+)|(%w+)|(%w+)|(%d+)$')
    if run == asked.run and phase == 'ready' then return 'ready ' .. state end
    if run == asked.run and now - tonumber(since) < asked.patience and now >= tonumber(since) then
      return 'busy ' .. state
    end
  end
  state = string.format('%s|%s|rebuilding|%.0f', asked.epoch, asked.run, now)
  redis.call('SET', KEYS[1], state)
  redis.call('SET', KEYS[1] .. ':ledgers', asked.ledgers)
  return string.format('claimed %s %.0f', state, now)
end

if not state or state ~= known then return 'lost ' .. (state or '') end
local prefix = KEYS[1] .. ':' .. string.match(state, '^%w+') .. ':'
local due = prefix .. 'due'

if what == 'load' then
  -- Put what was rebuilt in place, which renews the claim; the last part opens the store.
  local part = cjson.decode(ARGV[3])
  for _, cell in ipairs(part.cells) do
    redis.call('SET', prefix .. cell[1], pack(cell[2]))
    redis.call('ZADD', due, part.now, cell[1])
  end
  for _, set in ipairs(part.sets) do
    for _, item in ipairs(set[2]) do redis.call('SADD', prefix .. set[1], item) end
    redis.call('ZADD', due, set[3], set[1])
  end
  for _, lease in ipairs(part.leases) do
    redis.call('ZADD', prefix .. lease[1], lease[3], lease[2])
    redis.call('ZADD', due, lease[3], lease[1])
  end
  for _, record in ipairs(part.records) do
    redis.call('SET', prefix .. record[1], pack(record[2]))
    redis.call('ZADD', due, part.now + RECORD_LIFE, record[1])
  end
  if part.mark then
    redis.call('SET', prefix .. 'clock', pack({part.now, 0, part.mark}))
    state = string.gsub(state, '|rebuilding|', '|ready|')
  end
  state = string.gsub(state, '%d+$', string.format('%.0f', server_time()))
  redis.call('SET', KEYS[1], state)
  return 'loaded ' .. state
end

if what == 'clear' then
  -- Look at some keys of the store; drop those of other epochs, which are over.
  local found = redis.call('SCAN', cjson.decode(ARGV[3]).cursor, 'COUNT', 500)
  local begin = KEYS[1] .. ':'
  for _, key in ipairs(found[2]) do
    if string.sub(key, 1, #begin) == begin then
      local epoch = string.match(string.sub(key, #begin + 1), '^(%x+):')
      if epoch and #epoch == 16 and begin .. epoch .. ':' ~= prefix then
        redis.call('UNLINK', key)
      end
    end
  end
  return 'cleared ' .. found[1]
end

-- The limiter's time: the server's, less how far it has run ahead; a step back is held, and one
-- forward is at most `forward` beyond what some process saw pass on its monotonic clock.
local request = cjson.decode(ARGV[3])
local last, ahead, mark = unpack(unpack_(redis.call('GET', prefix .. 'clock')))
local now = server_time() - ahead
if now < last then
  now = last
else
  local latest = max(last + request.forward, request.witness)
  if now > latest then
    ahead = ahead + now - latest
    now = latest
  end
end

local function month_begin(at)
  local day = floor(at / DAY)
  local of_era = (day + 719468) % 146097
  local year = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524)
    - floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + floor(year / 4) - floor(year / 100))
  local month = floor((5 * of_year + 2) / 153)
  return (day - (of_year - floor((153 * month + 2) / 5))) * DAY
end

-- A rolling cell: {grain, drain, level, at, open, n, marks of n, lows of n}.
local function drained(cell)
  cell[3] = max(0, cell[3] - (now - cell[4]) * cell[2])
  cell[4] = now
end

-- What `level` units of 1/old are at least, and at most, in units of 1/new.
local function rescaled(level, old, new)
  local whole = floor(level / old)
  local rest = level - whole * old
  if rest == 0 then return min(whole * new, LEVEL_MAX), min(whole * new, LEVEL_MAX) end
  local part = rest / old * new
  return min(whole * new + max(floor(part) - 1, 0), LEVEL_MAX),
    min(whole * new + min(-floor(-part) + 1, new), LEVEL_MAX)
end

-- The limit was changed; what was drained so far was at the rate before.
local function changed(cell, grain, drain)
  local old, n = cell[1], cell[6]
  cell[1], cell[2] = grain, drain
  if old == grain then return end
  local _, most = rescaled(cell[3], old, grain)
  cell[3] = most
  for i = 1, n do cell[6 + n + i] = rescaled(cell[6 + n + i], old, grain) end
end

-- The stack of lows brought down to the level: first of the lows that are not below it joins all.
local function touched(cell)
  local n, level = cell[6], cell[3]
  if n == 0 or cell[6 + n + n] < level then return end
  local first = n
  while first > 1 and cell[5 + n + first] >= level do first = first - 1 end
  -- `first` is the lowest index whose low is at or above the level.
  local kept = {cell[1], cell[2], cell[3], cell[4], cell[5], first}
  for i = 1, first - 1 do kept[6 + i] = cell[6 + i]; kept[6 + first + i] = cell[6 + n + i] end
  kept[6 + first] = cell[6 + n]
  kept[6 + first + first] = level
  for i = 1, max(#cell, #kept) do cell[i] = kept[i] end
end

local function pushed(cell, this_mark)
  local n = cell[6]
  local marks, lows = {}, {}
  for i = 1, n do marks[i] = cell[6 + i]; lows[i] = cell[6 + n + i] end
  marks[n + 1] = this_mark
  lows[n + 1] = cell[3]
  if n + 1 > LOWS_MAX then
    local fewer_marks, fewer_lows = {}, {}
    for i = 1, n, 2 do
      fewer_marks[#fewer_marks + 1] = marks[i + 1]
      fewer_lows[#fewer_lows + 1] = lows[i]
    end
    fewer_marks[#fewer_marks + 1] = marks[n + 1]
    fewer_lows[#fewer_lows + 1] = lows[n + 1]
    marks, lows = fewer_marks, fewer_lows
  end
  n = #marks
  for i = #cell, 7, -1 do cell[i] = nil end
  cell[6] = n
  for i = 1, n do cell[6 + i] = marks[i]; cell[6 + n + i] = lows[i] end
end

local function refunded(cell, difference, this_mark)
  touched(cell)
  local n = cell[6]
  local first = 1
  while first <= n and cell[6 + first] < this_mark do first = first + 1 end
  if first > n then return end
  local refund = min(difference, cell[6 + n + first])
  cell[3] = cell[3] - refund
  local marks, lows = {}, {}
  for i = first, n do lows[i] = cell[6 + n + i] - refund end
  local joined = first
  while joined > 1 and cell[6 + n + joined - 1] >= lows[first] do joined = joined - 1 end
  local kept = n - (first - joined)
  local new = {cell[1], cell[2], cell[3], cell[4], cell[5], kept}
  for i = 1, joined - 1 do new[6 + i] = cell[6 + i]; new[6 + kept + i] = cell[6 + n + i] end
  for i = first, n do
    new[6 + i - first + joined] = cell[6 + i]
    new[6 + kept + i - first + joined] = lows[i]
  end
  for i = 1, max(#cell, #new) do cell[i] = new[i] end
end

local function settle_record(record, used)
  local excess, wanted, puts = {}, {}, {}
  local at, this_mark, name = record[1], record[2], record[3]
  for i = 4, #record, 4 do
    if CELLS[record[i + 1]] then wanted[#wanted + 1] = prefix .. record[i] end
  end
  local values, next_ = #wanted > 0 and redis.call('MGET', unpack(wanted)) or {}, 0
  for i = 4, #record, 4 do
    local key, kind, unit, cost = record[i], record[i + 1], record[i + 2], record[i + 3]
    local actual = used[unit] or cost
    if kind == 'concurrency' then
      redis.call('ZREM', prefix .. key, name)
    elseif kind ~= 'distinct' then
      next_ = next_ + 1
      local value = values[next_]
      local cell = value and unpack_(value)
      if cell and kind == 'rolling' then
        drained(cell)
        if actual > cost then
          cell[3] = min(cell[3] + (actual - cost) * cell[1], LEVEL_MAX)
        elseif actual < cost then
          refunded(cell, (cost - actual) * cell[1], this_mark)
        end
        cell[5] = cell[5] - 1
        if cell[5] <= 0 then
          cell = {cell[1], cell[2], cell[3], cell[4], 0, 0}
        end
        puts[#puts + 1], puts[#puts + 2] = prefix .. key, pack(cell)
      elseif cell then
        -- {used, begin, end, open}: a refund belongs to the month of the admission, if not over.
        if now >= cell[3] then
          cell[2] = month_begin(now)
          cell[3] = month_begin(cell[2] + 32 * DAY)
          cell[1] = 0
        end
        if actual > cost or at >= cell[2] then
          cell[1] = min(cell[1] + actual - cost, LEVEL_MAX)
        end
        cell[4] = cell[4] - 1
        puts[#puts + 1], puts[#puts + 2] = prefix .. key, pack(cell)
      end
      if actual > cost then excess[unit] = max(actual - cost, excess[unit] or 0) end
    end
  end
  if #puts > 0 then redis.call('MSET', unpack(puts)) end
  return excess
end

-- Look at some keys that are due; drop the cells that are fully drained.
local function sweep(count)
  local keys = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, count)
  for _, key in ipairs(keys) do
    local kind = string.match(key, '^%a+')
    local empty = now
    if kind == 'r' then
      local value = redis.call('GET', prefix .. key)
      if value then settle_record(unpack_(value), {}) end
    elseif kind == 'rolling' then
      local value = redis.call('GET', prefix .. key)
      if value then
        local cell = unpack_(value)
        drained(cell)
        empty = now - floor(-cell[3] / cell[2])
        if cell[5] > 0 then empty = max(empty, now + 1000000) end
      end
    elseif kind == 'month' or kind == 'balance' then
      local value = redis.call('GET', prefix .. key)
      if value then
        local cell = unpack_(value)
        if cell[1] > 0 then empty = cell[3] end
        if cell[4] > 0 then empty = max(empty, now + 1000000) end
      end
    elseif kind == 'concurrency' then
      local newest = redis.call('ZREVRANGE', prefix .. key, 0, 0, 'WITHSCORES')
      if newest[2] then empty = tonumber(newest[2]) end
    end
    if empty <= now then
      redis.call('DEL', prefix .. key)
      redis.call('ZREM', due, key)
    else
      redis.call('ZADD', due, min(empty, now + DAY), key)
    end
  end
end

local record_key = 'r:' .. request.id
local answer

if what == 'settle' then
  local value = redis.call('GET', prefix .. record_key)
  if value then
    local record = unpack_(value)
    local excess = settle_record(record, request.used)
    redis.call('DEL', prefix .. record_key)
    redis.call('ZREM', due, record_key)
    -- Only so that settling twice can be told; nothing hangs on when it expires.
    redis.call('SET', prefix .. 's:' .. request.id, '1', 'PX', 600000)
    answer = numbers({SETTLED, now})
    for unit, above in pairs(excess) do
      answer = answer .. string.format('%s %.0f\n', unit, above)
    end
  elseif redis.call('EXISTS', prefix .. 's:' .. request.id) == 1 then
    answer = numbers({ALREADY, now})
  else
    answer = numbers({UNKNOWN, now})
  end
  redis.call('SET', prefix .. 'clock', pack({now, ahead, mark}))
  return answer
end

-- reserve
if redis.call('EXISTS', prefix .. record_key, prefix .. 's:' .. request.id) > 0 then
  return numbers({USED, now})
end
sweep(2 * #request.demands + 8)
mark = mark + 1
local clock = pack({now, ahead, mark})

local wanted = {}
for _, demand in ipairs(request.demands) do
  if CELLS[demand[2]] then wanted[#wanted + 1] = prefix .. demand[1] end
end
local values, next_ = #wanted > 0 and redis.call('MGET', unpack(wanted)) or {}, 0
local cells, refused, skipped = {}, {REFUSED, now}, {}
for i, demand in ipairs(request.demands) do
  local key, kind, unit, cost, amount, window, burst, grain, drain, shadow, item = unpack(demand)
  local fits, wait, cell = false, -1, nil
  local value
  if CELLS[kind] then
    next_ = next_ + 1
    value = values[next_]
  end
  if kind == 'rolling' then
    if value then
      cell = unpack_(value)
      drained(cell)
      if cell[1] ~= grain or cell[2] ~= drain then
        changed(cell, grain, drain)
      end
    else
      cell = {grain, drain, 0, now, 0, 0, new = true}
    end
    local over = cell[3] + cost * grain - burst * grain
    fits = over <= 0
    if cost <= burst then wait = max(0, -floor(-over / drain)) end
  elseif kind == 'month' or kind == 'balance' then
    if value then
      cell = unpack_(value)
    else
      cell = {0, 0, LEVEL_MAX, 0, new = true}
      if kind == 'month' then cell[3] = 0 end
    end
    if now >= cell[3] then
      cell[2] = month_begin(now)
      cell[3] = month_begin(cell[2] + 32 * DAY)
      cell[1] = 0
    end
    fits = cell[1] + cost <= amount
    if kind == 'month' and cost <= amount then wait = cell[3] - now end
  elseif kind == 'distinct' then
    local begins = now - now % window
    cell = string.format('%s:%.0f', key, begins)
    fits = redis.call('SISMEMBER', prefix .. cell, item) == 1
      or redis.call('SCARD', prefix .. cell) < amount
    wait = begins + window - now
  else
    redis.call('ZREMRANGEBYSCORE', prefix .. key, '-inf', now)
    fits = redis.call('ZCARD', prefix .. key) < amount
    if not fits then
      local first = redis.call('ZRANGE', prefix .. key, 0, 0, 'WITHSCORES')
      wait = first[2] and tonumber(first[2]) - now or 0
    end
    cell = true
  end
  if fits then
    cells[i] = cell
  elseif shadow then
    skipped[#skipped + 1] = i - 1
  else
    refused[#refused + 1] = i - 1
    refused[#refused + 1] = wait
  end
end
if #refused > 2 then
  redis.call('SET', prefix .. 'clock', clock)
  return numbers(refused)
end

local record, readings, puts = {now, mark, request.id}, {}, {prefix .. 'clock', clock}
for i, demand in ipairs(request.demands) do
  local key, kind, unit, cost, amount, window, burst, grain, drain, shadow, item = unpack(demand)
  local cell = cells[i]
  if cell then
    local empty, left, reset = now + window, 0, 0
    if kind == 'rolling' then
      if cost > 0 then
        touched(cell)
        cell[3] = min(cell[3] + cost * grain, LEVEL_MAX)
        pushed(cell, mark)
      end
      cell[5] = cell[5] + 1
      reset = -floor(-cell[3] / drain)
      left = floor((burst * grain - cell[3]) / grain)
      empty = now + reset
    elseif kind == 'month' or kind == 'balance' then
      cell[1] = cell[1] + cost
      cell[4] = cell[4] + 1
      left = amount - cell[1]
      empty = min(cell[3], now + DAY)
    elseif kind == 'distinct' then
      redis.call('SADD', prefix .. cell, item)
      redis.call('ZADD', due, now - now % window + window, cell)
    else
      redis.call('ZADD', prefix .. key, now + window, request.id)
      redis.call('ZADD', due, 'NX', now + window, key)
    end
    if type(cell) == 'table' then
      if cell.new then
        cell.new = nil
        redis.call('ZADD', due, empty, key)
      end
      puts[#puts + 1], puts[#puts + 2] = prefix .. key, pack(cell)
    end
    local n = #record
    record[n + 1], record[n + 2], record[n + 3], record[n + 4] = key, kind, unit, cost
    readings[#readings + 1] = i - 1
    readings[#readings + 1] = max(0, left)
    readings[#readings + 1] = reset
  end
end
puts[#puts + 1], puts[#puts + 2] = prefix .. record_key, pack(record)
redis.call('MSET', unpack(puts))
redis.call('ZADD', due, now + RECORD_LIFE, record_key)
answer = {RESERVED, now, #skipped}
for i = 1, #skipped do answer[3 + i] = skipped[i] end
for i = 1, #readings do answer[3 + #skipped + i] = readings[i] end
return numbers(answer)
