"""A graph as people have them: users, their posts with tags, and comments that answer each other."""

from __future__ import annotations

from typing import Any

import peewee

from tent.data import dbm

Model = dbm.declarative_base()


class User(Model):
    name = peewee.CharField(unique=True)


class Tag(Model):
    word = peewee.CharField(unique=True)


class Post(Model):
    author = peewee.ForeignKeyField(User, backref="posts", on_delete="CASCADE")
    editor = peewee.ForeignKeyField(User, backref="edited", null=True, on_delete="SET NULL")
    title = peewee.CharField(default="")
    tags = peewee.ManyToManyField(Tag, backref="posts", on_delete="CASCADE")


class Comment(Model):
    post = peewee.ForeignKeyField(Post, backref="comments", on_delete="CASCADE")
    author = peewee.ForeignKeyField(User, backref="comments", null=True, on_delete="SET NULL")
    parent = peewee.ForeignKeyField("self", backref="replies", null=True, on_delete="CASCADE")
    text = peewee.TextField(default="")


USERS, POSTS, COMMENTS, TAGS = 30, 3, 4, 6  # posts of a user, comments of a post


def fill(session: Any) -> None:
    """Save a blog, in which each post has comments of several users, an answer to one of them, and tags."""
    users = [User(name=f"user {number}") for number in range(USERS)]
    tags = [Tag(word=f"tag {number}") for number in range(TAGS)]
    for number, user in enumerate(users):
        for place in range(POSTS):
            post = Post(author=user, editor=users[number - 1], title=f"{user.name}, post {place}")
            post.tags = [tags[(number + place) % TAGS], tags[(number + place + 1) % TAGS]]
            comments = [
                Comment(post=post, author=users[number - 1 - place - i], text=f"{i}") for i in range(COMMENTS - 1)
            ]
            post.comments.add(*comments, Comment(post=post, parent=comments[0], text="answer"))
            session.add(post)
    session.commit()
