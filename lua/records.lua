-- records: some records of the registry of keys, and the epoch that they are of.
--
-- Why a script: a store that fell back (a failover that lost changes) would show a key as it was before. Read in
-- the same moment, the epoch says so, and the reader who has seen a later one believes nothing of it.
--
-- KEYS  [1] epoch: string
--       [2] keys: hash, id -> record
-- ARGV  the ids
-- Returns the epoch or "", and the records in this order, nil where there is none.
-- Cost  linear in the number of ids.

return { redis.call('GET', KEYS[1]) or '', redis.call('HMGET', KEYS[2], unpack(ARGV)) }
