-- Callees that fail their callers more than their own past allows, as the callers see it.
--
-- A service that is down has no server spans of its own to fail; its callers' client spans do. Same
-- binomial bound as for errors that a service answers itself.
with client as (
    select w.namespace, w.peer, w.bucket, bool_and(w.calm) as calm,
           sum(w.count) as n, sum(w.errors) as e, min(w.first_error) as first_error
    from windows w
    where w.kind in ('client', 'producer') and w.peer <> ''
    group by w.namespace, w.peer, w.bucket
),
past as (
    select c.*,
           sum(case when c.calm then c.n else 0 end) over earlier as past_n,
           sum(case when c.calm then c.e else 0 end) over earlier as past_e
    from client c
    window earlier as (partition by c.namespace, c.peer order by c.bucket
                       rows between unbounded preceding and 1 preceding)
),
judged as (
    select p.*,
           (cast(p.past_e as double) + 0.5) / (cast(p.past_n as double) + 1.0) as baseline
    from past p cross join params
    where p.bucket >= params.recent and p.past_n >= params.least and p.e > 0
)
select j.namespace, j.peer as service, j.bucket, j.n, j.e, j.first_error,
       cast(j.e as double) / cast(j.n as double) as value,
       cast(j.past_e as double) / cast(j.past_n as double) as baseline,
       (cast(j.e as double) - 1.0 - j.n * j.baseline) / sqrt(j.n * j.baseline * (1.0 - j.baseline) + 1.0) as score
from judged j cross join params
where (cast(j.e as double) - 1.0 - j.n * j.baseline) > params.z * sqrt(j.n * j.baseline * (1.0 - j.baseline) + 1.0)
order by j.namespace, j.peer, j.bucket
