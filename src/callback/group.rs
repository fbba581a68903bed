//! `Group.*`: what happens to groups and their members.

use super::command::{Command, Field, Shape};

const GROUP_ID: Field = Field { theirs: "GroupId", ours: "group_id", shape: Shape::GroupId };
const GROUP_TYPE: Field = Field { theirs: "Type", ours: "group_type", shape: Shape::Text };

/// The family's commands.
pub(super) const COMMANDS: &[Command] = &[
    // https://www.tencentcloud.com/document/product/1047/34377; a community's members are not sent, and `Name` stands in the sample alone.
    Command {
        name: "Group.CallbackAfterGroupDestroyed",
        kind: "group-disband",
        fields: &[
            GROUP_ID,
            GROUP_TYPE,
            Field { theirs: "Owner_Account", ours: "owner", shape: Shape::Text },
            Field { theirs: "Name", ours: "group_name", shape: Shape::Text },
            Field { theirs: "MemberList", ours: "members", shape: Shape::Accounts("Member_Account") },
        ],
    },
    // https://www.tencentcloud.com/document/product/1047/34373; the operator is who removed the members, or who left.
    Command {
        name: "Group.CallbackAfterMemberExit",
        kind: "member-exit",
        fields: &[
            GROUP_ID,
            GROUP_TYPE,
            Field { theirs: "ExitType", ours: "exit_type", shape: Shape::Word },
            Field { theirs: "Operator_Account", ours: "operator", shape: Shape::Text },
            Field { theirs: "ExitMemberList", ours: "members", shape: Shape::Accounts("Member_Account") },
        ],
    },
    // https://www.tencentcloud.com/document/product/1047/34376; comes again with each attempt to join a full group.
    Command { name: "Group.CallbackAfterGroupFull", kind: "group-full", fields: &[GROUP_ID] },
];
