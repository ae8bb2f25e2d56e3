-- Services that fail more than their own past allows: in what they answer (`error_ratio`), and in what
-- their callers see (`call_errors`), for a service that is down has no server spans of its own to fail.
--
-- Judged is each window to which failures came lately, whatever its time: spans may come late, and
-- senders have clocks of their own. It is judged as the end of sums over 5, 15, 60 and 300 seconds,
-- against the ratio of the calm windows before each sum; so a service with a request a second, or a
-- few more failures than usual, is seen too, only later. The shortest sum that is above the bound
-- speaks. What fades does not count: each shorter sum must show at least half of the excess. The bound
-- is binomial (normal approximation with a continuity term): never fewer than six failures. It counts
-- the spans that were looked at; one that stands for others in a flood says no more than one.
with failing as (
    select distinct a.kind, a.namespace, a.service
    from answers a cross join params
    where a.errors > 0 and a.failed >= params.recent
),
seen as (
    select a.kind, a.namespace, a.service, a.bucket, cast(a.bucket as bigint) as at,
           cast(a.count as double) as n, cast(a.errors as double) as e,
           case when a.calm then cast(a.count as double) else 0.0 end as calm_n,
           case when a.calm then cast(a.errors as double) else 0.0 end as calm_e,
           a.first_error, a.failed
    from answers a
    join failing f on f.kind = a.kind and f.namespace = a.namespace and f.service = a.service
),
summed as (
    -- sums that end with each window to which failures came lately, and the calm past before each of them
    select r.kind, r.namespace, r.service, r.bucket, r.at, r.failed, r.n as n5, r.e as e5,
           sum(case when s.at >= r.at - 10000000000 then s.n end) as n15,
           sum(case when s.at >= r.at - 10000000000 then s.e end) as e15,
           sum(case when s.at >= r.at - 55000000000 then s.n end) as n60,
           sum(case when s.at >= r.at - 55000000000 then s.e end) as e60,
           sum(case when s.at >= r.at - 295000000000 then s.n end) as n300,
           sum(case when s.at >= r.at - 295000000000 then s.e end) as e300,
           sum(case when s.at <= r.at - 5000000000 then s.calm_n end) as past_n5,
           sum(case when s.at <= r.at - 5000000000 then s.calm_e end) as past_e5,
           sum(case when s.at <= r.at - 15000000000 then s.calm_n end) as past_n15,
           sum(case when s.at <= r.at - 15000000000 then s.calm_e end) as past_e15,
           sum(case when s.at <= r.at - 60000000000 then s.calm_n end) as past_n60,
           sum(case when s.at <= r.at - 60000000000 then s.calm_e end) as past_e60,
           sum(case when s.at <= r.at - 300000000000 then s.calm_n end) as past_n300,
           sum(case when s.at <= r.at - 300000000000 then s.calm_e end) as past_e300
    from seen r
    join seen s on s.kind = r.kind and s.namespace = r.namespace and s.service = r.service and s.at <= r.at
    cross join params
    where r.failed >= params.recent
    group by r.kind, r.namespace, r.service, r.bucket, r.at, r.failed, r.n, r.e
),
sums as (
    select s.kind, s.namespace, s.service, s.bucket, s.at, s.failed, t.span_s,
           case t.span_s when 5 then s.n5 when 15 then s.n15 when 60 then s.n60 else s.n300 end as n,
           case t.span_s when 5 then s.e5 when 15 then s.e15 when 60 then s.e60 else s.e300 end as e,
           case t.span_s when 5 then s.past_n5 when 15 then s.past_n15
                         when 60 then s.past_n60 else s.past_n300 end as past_n,
           case t.span_s when 5 then s.past_e5 when 15 then s.past_e15
                         when 60 then s.past_e60 else s.past_e300 end as past_e,
           least(s.e5 / s.n5,
                 case when t.span_s > 15 then s.e15 / s.n15 else 1.0 end,
                 case when t.span_s > 60 then s.e60 / s.n60 else 1.0 end) as still
    from summed s
    cross join (values (5), (15), (60), (300)) as t(span_s)
),
judged as (
    select s.*, s.e / s.n as value, s.past_e / s.past_n as usual, (s.past_e + 0.5) / (s.past_n + 1.0) as baseline
    from sums s cross join params
    where s.past_n >= params.least
),
above as (
    select j.*,
           (j.e - 1.0 - j.n * j.baseline) / sqrt(j.n * j.baseline * (1.0 - j.baseline) + 1.0) as score,
           row_number() over (partition by j.kind, j.namespace, j.service, j.bucket order by j.span_s) as place
    from judged j cross join params
    where j.e - 1.0 - j.n * j.baseline > params.z * sqrt(j.n * j.baseline * (1.0 - j.baseline) + 1.0)
      and j.still - j.baseline >= 0.5 * (j.value - j.baseline)
),
walked as (
    -- it began where the failures beyond the usual began to gather (CUSUM)
    select a.*, s.at as step, s.bucket as step_bucket, s.first_error,
           coalesce(sum(s.e - s.n * a.baseline) over (
               partition by a.kind, a.namespace, a.service, a.bucket order by s.at
               rows between unbounded preceding and 1 preceding), 0.0) as gathered
    from above a
    join seen s on s.kind = a.kind and s.namespace = a.namespace and s.service = a.service
               and s.at <= a.at and s.at > a.at - a.span_s * 1000000000
    where a.place = 1
),
begun as (
    select w.*, row_number() over (partition by w.kind, w.namespace, w.service, w.bucket
                                   order by w.gathered, w.at - w.step) as place_of_step
    from walked w
)
select b.kind, b.namespace, b.service, b.bucket, coalesce(b.first_error, b.step_bucket) as onset,
       b.failed, b.span_s, b.value, b.usual as baseline, b.score
from begun b
where b.place_of_step = 1
order by b.kind desc, b.namespace, b.service, b.bucket
