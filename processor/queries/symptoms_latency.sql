-- Services that answer slower than their own past, for three windows in a row.
--
-- Judged per operation: when the mix of requests shifts, the median of a service moves though nothing
-- is slower. The past is the calm windows before; its level is the median of the windows' medians and
-- its spread the median absolute deviation from it (Hampel). A shift counts when each of the last three
-- windows with enough requests lies above both twice the level and level + 8 spreads, and by at least
-- 50 ms: less than that no user sees. Of a service's operations the most used one speaks for it.
with per as (
    select w.namespace, w.service, w.operation, w.bucket, w.calm, sum(w.count) as n,
           sum(w.p50_ms * w.count) / sum(w.count) as p50
    from windows w
    where w.kind in ('server', 'consumer')
    group by w.namespace, w.service, w.operation, w.bucket, w.calm
),
level as (
    select p.namespace, p.service, p.operation, median(p.p50) as level, sum(p.n) as past_n
    from per p cross join params
    where p.calm and p.bucket < params.recent
    group by p.namespace, p.service, p.operation
),
spread as (
    select p.namespace, p.service, p.operation, median(abs(p.p50 - l.level)) as mad
    from per p
    join level l on l.namespace = p.namespace and l.service = p.service and l.operation = p.operation
    cross join params
    where p.calm and p.bucket < params.recent
    group by p.namespace, p.service, p.operation
),
recent as (
    select p.namespace, p.service, p.operation, p.bucket, p.n, p.p50, l.level, l.past_n, d.mad,
           p.p50 > 2.0 * l.level and p.p50 > l.level + 8.0 * 1.4826 * d.mad and p.p50 > l.level + 50.0 as slow
    from per p
    join level l on l.namespace = p.namespace and l.service = p.service and l.operation = p.operation
    join spread d on d.namespace = p.namespace and d.service = p.service and d.operation = p.operation
    cross join params
    where p.bucket >= params.recent and p.n >= 3
),
slow as (
    select r.namespace, r.service, r.operation, min(r.bucket) as bucket, sum(r.n) as n,
           median(r.p50) as value, min(r.level) as baseline,
           (median(r.p50) - min(r.level)) / (1.4826 * min(r.mad) + 1.0) as score
    from recent r cross join params
    where r.past_n >= params.least
    group by r.namespace, r.service, r.operation
    having count(*) >= 3 and bool_and(r.slow)
),
ranked as (
    select s.*, row_number() over (partition by s.namespace, s.service order by s.n desc, s.operation) as place
    from slow s
)
select 'latency' as kind, namespace, service, bucket, bucket as onset, 5.0 as span_s, n, value, baseline, score
from ranked
where place = 1
order by namespace, service
