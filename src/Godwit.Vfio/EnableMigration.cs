namespace Godwit.Vfio;

/// <summary>Whether the user wants a device to be migrated (<c>enable-migration=</c>).</summary>
public enum EnableMigration
{
    /// <summary>With its state, when the device can save it; otherwise it keeps the machine from migrating.</summary>
    Auto,

    /// <summary>It keeps the machine from migrating.</summary>
    Off,

    /// <summary>As <see cref="Auto"/>, but one that cannot save its state is left behind with it: the guest finds a device there that has been reset.</summary>
    Force,
}
