"""Tables as a SaaS has them: each row of most belongs to a tenant. SHOP_VERSION 2 is after some months."""

import os
import uuid

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models.functions import Lower, Now

IS_NEW = os.environ["SHOP_VERSION"] == "2"


class Plan(models.Model):
    name = models.CharField(max_length=40, unique=True)


class Tenant(models.Model):
    name = models.CharField(max_length=100)
    plan = models.ForeignKey(Plan, models.PROTECT, null=True)


class Setting(models.Model):
    """Has no tenant: its rows are on the home shard."""

    key = models.SlugField(unique=True)
    value = models.JSONField(default=dict)


class Owned(models.Model):
    tenant = models.ForeignKey(Tenant, models.CASCADE)

    class Meta:
        abstract = True


class Customer(Owned):
    email = models.EmailField()
    parent = models.ForeignKey("self", models.SET_NULL, null=True)
    if IS_NEW:
        full_name = models.CharField(max_length=200, default="nobody", db_comment="as they write it")
        joined = models.DateField(null=True, db_index=True)
    else:
        name = models.CharField(max_length=100, default="nobody")
        notes = models.TextField(blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "email"], name="customer_email")]
        if IS_NEW:
            constraints += [
                models.CheckConstraint(condition=models.Q(email__contains="@"), name="customer_at"),
                models.UniqueConstraint("tenant", Lower("email"), name="customer_lower"),
            ]
            indexes = [models.Index(fields=["tenant", "-id"], name="customer_newest")]


class Project(Owned):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    owner = models.ForeignKey(Customer, models.CASCADE, related_name="projects")
    title = models.CharField(max_length=50)
    tags = ArrayField(models.CharField(max_length=20), default=list)
    created = models.DateTimeField(db_default=Now())
    if IS_NEW:
        budget = models.DecimalField(max_digits=20, decimal_places=2, default=0)

    class Meta:
        if IS_NEW:
            indexes = [GinIndex(fields=["tags"], name="project_tags")]


class Task(Owned):
    project = models.ForeignKey(Project, models.CASCADE)
    done = models.BooleanField(default=False)
    if IS_NEW:
        position = models.BigIntegerField(default=0)
        data = models.JSONField(null=True)
    else:
        position = models.SmallIntegerField(null=True)


if IS_NEW:

    class Watcher(Owned):
        """Many to many, through a table with the tenant."""

        customer = models.ForeignKey(Customer, models.CASCADE)
        task = models.ForeignKey(Task, models.CASCADE)

        class Meta:
            db_table = "shop_watchers"
            unique_together = [("tenant", "customer", "task")]
