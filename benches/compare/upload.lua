-- 1 MiB up, for wrk.
wrk.method = "POST"
wrk.body = string.rep("x", 1048576)
