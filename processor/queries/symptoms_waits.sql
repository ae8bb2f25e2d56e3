-- Services that send no spans and answer slower than their past, by those that ask them, if two of these or
-- more wait: what only one waits for may be its own doing. Judged per caller and operation as in
-- `symptoms_latency.sql`; the most used operation of a caller speaks, and it began when the first caller waited.
with speaks as (
    select distinct w.namespace, w.service
    from params cross join windows w
    where w.kind in ('server', 'consumer') and w.arrived >= params.recent
),
asks as (
    select w.*
    from windows w
    where w.kind in ('client', 'producer') and w.peer <> ''
),
touched as (
    select distinct w.namespace, w.service, w.peer_namespace, w.peer, w.operation
    from params
    cross join asks w
    left join speaks s on s.namespace = w.peer_namespace and s.service = w.peer
    where w.arrived >= params.recent and w.p50_ms > 50.0 and s.service is null
),
per as (
    select w.namespace, w.service, w.peer_namespace, w.peer, w.operation, w.bucket,
           bool_and(w.calm) as calm, sum(w.looked) as n,
           sum(w.p50_ms * w.looked) / sum(w.looked) as p50, max(w.arrived) as arrived
    from touched t
    join asks w on w.namespace = t.namespace and w.service = t.service
                and w.peer_namespace = t.peer_namespace and w.peer = t.peer and w.operation = t.operation
    group by w.namespace, w.service, w.peer_namespace, w.peer, w.operation, w.bucket
),
level as (
    select p.namespace, p.service, p.peer_namespace, p.peer, p.operation,
           median(p.p50) as level, sum(p.n) as past_n
    from per p cross join params
    where p.calm and p.arrived < params.recent
    group by p.namespace, p.service, p.peer_namespace, p.peer, p.operation
),
spread as (
    select p.namespace, p.service, p.peer_namespace, p.peer, p.operation,
           median(abs(p.p50 - l.level)) as mad
    from per p
    join level l on l.namespace = p.namespace and l.service = p.service
                and l.peer_namespace = p.peer_namespace and l.peer = p.peer and l.operation = p.operation
    cross join params
    where p.calm and p.arrived < params.recent
    group by p.namespace, p.service, p.peer_namespace, p.peer, p.operation
),
newest as (
    -- from the newest window back
    select p.*,
           row_number() over (partition by p.namespace, p.service, p.peer_namespace, p.peer, p.operation
                              order by p.bucket desc) as back,
           coalesce(sum(p.n) over (partition by p.namespace, p.service, p.peer_namespace, p.peer, p.operation
                                   order by p.bucket desc
                                   rows between unbounded preceding and 1 preceding), 0) as after_n
    from per p
),
slow as (
    select p.namespace, p.service, p.peer_namespace, p.peer, p.operation,
           max(p.bucket) as bucket, min(p.bucket) as onset,
           max(p.arrived) as arrived, sum(p.n) as n, median(p.p50) as value, min(l.level) as baseline,
           (median(p.p50) - min(l.level)) / (1.4826 * min(d.mad) + 1.0) as score
    from newest p
    join level l on l.namespace = p.namespace and l.service = p.service
                and l.peer_namespace = p.peer_namespace and l.peer = p.peer and l.operation = p.operation
    join spread d on d.namespace = p.namespace and d.service = p.service
                 and d.peer_namespace = p.peer_namespace and d.peer = p.peer and d.operation = p.operation
    cross join params
    where (p.back <= 4 or p.after_n < 9) and l.past_n >= params.least
    group by p.namespace, p.service, p.peer_namespace, p.peer, p.operation, params.recent
    having count(*) >= 4 and sum(p.n) >= 9 and max(p.arrived) >= params.recent
       and max(p.bucket) < min(p.bucket) + interval '300 seconds'
       and sum(case when p.p50 > 2.0 * l.level and p.p50 > l.level + 8.0 * 1.4826 * d.mad
                     and p.p50 > l.level + 50.0 then p.n else 0 end) >= 0.8 * sum(p.n)
),
askers as (
    select peer_namespace, peer, count(distinct concat(namespace, '/', service)) as askers, min(onset) as first_onset
    from slow
    group by peer_namespace, peer
),
ranked as (
    select s.*, a.first_onset,
           row_number() over (partition by s.peer_namespace, s.peer
                              order by s.n desc, s.namespace, s.service, s.operation) as place
    from slow s
    join askers a on a.peer_namespace = s.peer_namespace and a.peer = s.peer
    where a.askers >= 2
)
select 'latency' as kind, peer_namespace as namespace, peer as service, bucket, first_onset as onset,
       arrived as failed, (cast(bucket as bigint) - cast(onset as bigint)) / 1000000000 + 5 as span_s,
       5.0 + ((cast(bucket as bigint) - cast(onset as bigint)) / 1000000000.0 + 5.0) / n as within_s,
       value, baseline, score
from ranked
where place = 1
order by namespace, service
