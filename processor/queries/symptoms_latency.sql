-- Services that answer slower than their own past, by their own spans.
--
-- Judged per operation: when the mix of requests shifts, the median of a service moves though nothing
-- is slower. The past is the calm windows before; its level is the median of the windows' medians and
-- its spread the median absolute deviation from it (Hampel). A shift counts when the newest windows,
-- four at least and with nine requests in five minutes at most, lie above both twice the level and
-- level + 8 spreads, and by at least 50 ms: less than that no user sees; a window in five may be an
-- exception. When it began is known to a window and the time from one request to the next. Of a service's
-- operations the most used one speaks for it. In each join the few rows come first:
-- they are what is kept in memory.
with touched as (
    select distinct w.namespace, w.service, w.operation
    from params cross join windows w
    where w.kind in ('server', 'consumer') and w.arrived >= params.recent and w.p50_ms > 50.0
),
per as (
    select w.namespace, w.service, w.operation, w.bucket, bool_and(w.calm) as calm, sum(w.looked) as n,
           sum(w.p50_ms * w.looked) / sum(w.looked) as p50, max(w.arrived) as arrived
    from touched t
    join windows w on w.namespace = t.namespace and w.service = t.service and w.operation = t.operation
    where w.kind in ('server', 'consumer')
    group by w.namespace, w.service, w.operation, w.bucket
),
level as (
    select p.namespace, p.service, p.operation, median(p.p50) as level, sum(p.n) as past_n
    from per p cross join params
    where p.calm and p.arrived < params.recent
    group by p.namespace, p.service, p.operation
),
spread as (
    select p.namespace, p.service, p.operation, median(abs(p.p50 - l.level)) as mad
    from per p
    join level l on l.namespace = p.namespace and l.service = p.service and l.operation = p.operation
    cross join params
    where p.calm and p.arrived < params.recent
    group by p.namespace, p.service, p.operation
),
newest as (
    -- from the newest window back
    select p.*,
           row_number() over (partition by p.namespace, p.service, p.operation order by p.bucket desc) as back,
           coalesce(sum(p.n) over (partition by p.namespace, p.service, p.operation order by p.bucket desc
                                   rows between unbounded preceding and 1 preceding), 0) as after_n
    from per p
),
slow as (
    select p.namespace, p.service, p.operation, max(p.bucket) as bucket, min(p.bucket) as onset,
           max(p.arrived) as arrived, sum(p.n) as n, median(p.p50) as value, min(l.level) as baseline,
           (median(p.p50) - min(l.level)) / (1.4826 * min(d.mad) + 1.0) as score
    from newest p
    join level l on l.namespace = p.namespace and l.service = p.service and l.operation = p.operation
    join spread d on d.namespace = p.namespace and d.service = p.service and d.operation = p.operation
    cross join params
    where (p.back <= 4 or p.after_n < 9) and l.past_n >= params.least
    group by p.namespace, p.service, p.operation, params.recent
    having count(*) >= 4 and sum(p.n) >= 9 and max(p.arrived) >= params.recent
       and max(p.bucket) < min(p.bucket) + interval '300 seconds'
       and sum(case when p.p50 > 2.0 * l.level and p.p50 > l.level + 8.0 * 1.4826 * d.mad
                     and p.p50 > l.level + 50.0 then p.n else 0 end) >= 0.8 * sum(p.n)
),
ranked as (
    select s.*, row_number() over (partition by s.namespace, s.service order by s.n desc, s.operation) as place
    from slow s
)
select 'latency' as kind, namespace, service, bucket, onset, arrived as failed,
       (cast(bucket as bigint) - cast(onset as bigint)) / 1000000000 + 5 as span_s,
       5.0 + ((cast(bucket as bigint) - cast(onset as bigint)) / 1000000000.0 + 5.0) / n as within_s,
       value, baseline, score
from ranked
where place = 1
order by namespace, service
