using System.Reflection;
using System.Runtime.CompilerServices;

namespace Godwit.Iommu.Tests;

/// <summary>
/// What an object keeps alive: all objects reachable from it by fields and array elements, with the bytes of their arrays. Unlike the
/// collector's totals it does not depend on what else the process does.
/// </summary>
internal static class HeldMemory
{
    internal static (long Objects, long Bytes) Of(object root)
    {
        var seen = new HashSet<object>(ReferenceEqualityComparer.Instance) { root };
        var left = new Stack<object>();
        left.Push(root);
        long bytes = 0;
        while (left.TryPop(out object? next))
        {
            if (next is Array array)
            {
                Type element = array.GetType().GetElementType()!;
                bytes += (long)array.Length * (element.IsValueType ? SizeOf(element) : IntPtr.Size);
                if (MayRefer(element))
                {
                    foreach (object? item in array)
                        Visit(item);
                }

                continue;
            }

            VisitFields(next);
        }

        return (seen.Count, bytes);

        void Visit(object? value)
        {
            // The tests' own listeners hold what they were told; types and threads hold the world.
            if (value is null or string or MemberInfo or Assembly or Module or Thread or Pointer || value.GetType().Assembly == typeof(HeldMemory).Assembly)
                return;
            if (value.GetType().IsValueType)
                VisitFields(value);
            else if (seen.Add(value))
                left.Push(value);
        }

        void VisitFields(object value)
        {
            for (Type? type = value.GetType(); type is not null; type = type.BaseType)
            {
                foreach (FieldInfo field in type.GetFields(BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.DeclaredOnly))
                {
                    if (MayRefer(field.FieldType))
                        Visit(field.GetValue(value));
                }
            }
        }
    }

    private static bool MayRefer(Type type)
    {
        if (type.IsPointer || type.IsByRef || type.IsPrimitive || type.IsEnum || type.IsByRefLike)
            return false;
        return !type.IsValueType || (bool)References.MakeGenericMethod(type).Invoke(null, null)!;
    }

    private static int SizeOf(Type type) => (int)Size.MakeGenericMethod(type).Invoke(null, null)!;

    private static readonly MethodInfo References = typeof(RuntimeHelpers).GetMethod(nameof(RuntimeHelpers.IsReferenceOrContainsReferences))!;

    private static readonly MethodInfo Size = typeof(Unsafe).GetMethod(nameof(Unsafe.SizeOf))!;
}
