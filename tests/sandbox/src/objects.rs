//! Processes, tags and files, and what the API does when one of them is deleted. Tasks are in
//! `api`. The rules come from Tallyfy's public documentation.

use crate::normal_answers::{self, Answer, Change};
use crate::operation::{ObjectType, Operation};
use crate::state::{ObjectState, State};

/// The operation that these path segments after the organisation name, and the object's id.
pub(crate) fn route<'a>(tail: &[&'a str]) -> Option<(Operation, &'a str)> {
    let (operation, id) = match tail {
        ["runs", id, "delete"] => (Operation::DeleteProcess, *id),
        ["tags", id] => (Operation::DeleteTag, *id),
        ["file", id] => (Operation::DeleteFile, *id),
        _ => return None,
    };
    (!id.is_empty()).then_some((operation, id))
}

/// Deletes an object, or refuses to.
pub(crate) fn delete(state: &mut State, object: ObjectType, org_id: &str, id: &str) -> Answer {
    let Some(organisation) = state.organisation(org_id) else {
        return normal_answers::resource_not_found();
    };
    let known = organisation.objects.get_mut(&(object, id.to_owned()));
    let before = known.as_deref().copied().unwrap_or(ObjectState::Gone);
    match (object, before) {
        (_, ObjectState::Forbidden) => return normal_answers::forbidden(),
        // A tag that does not exist is a success, too.
        (ObjectType::Tag, ObjectState::Gone) => return normal_answers::no_content(None),
        (_, ObjectState::Gone) => return normal_answers::resource_not_found(),
        (ObjectType::Process, ObjectState::Present) => {
            return normal_answers::unprocessable("Only an archived process can be deleted.");
        }
        (ObjectType::File, ObjectState::Logo) => {
            return normal_answers::unprocessable("The logo of an organisation cannot be deleted.");
        }
        _ => {}
    }
    if let Some(known) = known {
        *known = ObjectState::Gone;
    }
    let change = Some(Change::Deleted);
    match object {
        ObjectType::Tag => normal_answers::no_content(change),
        ObjectType::Process | ObjectType::File => normal_answers::empty_ok(change),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(object: ObjectType, before: Option<ObjectState>) -> (u16, Option<ObjectState>) {
        let mut state = State::new("token".to_owned());
        state.put_organisation("o", None);
        let key = (object, "x".to_owned());
        let objects = &mut state.organisation("o").unwrap().objects;
        objects.extend(before.map(|before| (key.clone(), before)));
        let answer = delete(&mut state, object, "o", "x");
        assert!(answer.status != 200 || answer.body.is_none(), "an empty 200");
        (answer.status.as_u16(), state.organisation("o").unwrap().objects.get(&key).copied())
    }

    #[test]
    fn a_process_is_deleted_only_when_it_is_archived() {
        use ObjectState::{Archived, Forbidden, Gone, Present};
        assert_eq!(status(ObjectType::Process, Some(Archived)), (200, Some(Gone)));
        assert_eq!(status(ObjectType::Process, Some(Present)), (422, Some(Present)));
        assert_eq!(status(ObjectType::Process, Some(Forbidden)), (403, Some(Forbidden)));
        assert_eq!(status(ObjectType::Process, Some(Gone)), (404, Some(Gone)));
        assert_eq!(status(ObjectType::Process, None), (404, None));
    }

    #[test]
    fn a_tag_that_does_not_exist_is_a_success_and_a_logo_is_refused() {
        use ObjectState::{Gone, Logo, Present};
        assert_eq!(status(ObjectType::Tag, Some(Present)), (204, Some(Gone)));
        assert_eq!(status(ObjectType::Tag, None), (204, None));
        assert_eq!(status(ObjectType::File, Some(Present)), (200, Some(Gone)));
        assert_eq!(status(ObjectType::File, Some(Logo)), (422, Some(Logo)));
        assert_eq!(status(ObjectType::File, None), (404, None));
    }

    #[test]
    fn an_object_is_named_by_its_path() {
        assert_eq!(route(&["runs", "r", "delete"]), Some((Operation::DeleteProcess, "r")));
        assert_eq!(route(&["tags", "t"]), Some((Operation::DeleteTag, "t")));
        assert_eq!(route(&["file", "f"]), Some((Operation::DeleteFile, "f")));
        for wrong in [&["runs", "r"][..], &["tags", ""], &["tags", "t", "delete"], &["files", "f"]]
        {
            assert_eq!(route(wrong), None, "{wrong:?}");
        }
    }
}
